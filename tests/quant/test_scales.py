import numpy as np
import numpy.typing as npt
import pytest

from pipeline.quant.gemms import FloatArray
from pipeline.quant.rounding import round_nearest
from pipeline.quant.scales import activation_scale, weight_scales
from pipeline.quant.statistics import Activation


def f32(values: npt.ArrayLike) -> FloatArray:
    return np.array(values, dtype=np.float32)


def seen(low: npt.ArrayLike, high: npt.ArrayLike) -> Activation:
    """Return statistics of which only the range matters here."""
    none = np.zeros(0)
    return Activation(tokens=1, low=f32(low), high=f32(high), mean=none, moment=none)


def test_activation_scale_maps_the_largest_magnitude_to_127() -> None:
    observed = seen([-2.54, 0, -1], [1, 1.27, 0])
    assert activation_scale(observed) == pytest.approx(0.02)
    assert activation_scale(observed).dtype == np.float32


def test_weight_scales_are_per_output_channel() -> None:
    weight = f32([[1.27, -2.54, 0], [-0.5, 1, 12.7]])
    np.testing.assert_allclose(weight_scales(weight), [0.01, 0.02, 0.1], rtol=1e-6)


def test_scales_are_positive_even_for_zeros() -> None:
    assert activation_scale(seen([0, 0], [0, 0])) > 0
    weight = np.zeros((2, 3), dtype=np.float32)
    weight[:, 1] = 1
    scales = weight_scales(weight)
    assert (scales > 0).all()
    assert round_nearest(weight, scales).tolist() == [[0, 127, 0]] * 2
