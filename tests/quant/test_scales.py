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
    return Activation(
        tokens=1,
        low=f32(low),
        high=f32(high),
        mean=none,
        moment=none,
        sample=none.astype(np.float32),
    )


def test_activation_scale_maps_the_largest_magnitude_to_127() -> None:
    observed = seen([-2.54, 0, -1], [1, 1.27, 0])
    assert activation_scale(observed) == pytest.approx(0.02, rel=1e-3)
    assert activation_scale(observed).dtype == np.float32


def test_weight_scales_are_per_output_channel() -> None:
    weight = f32([[1.27, -2.54, 0], [-0.5, 1, 12.7]])
    np.testing.assert_allclose(weight_scales(weight), [0.01, 0.02, 0.1], rtol=1e-3)


def test_scales_are_the_next_larger_fp16_numbers() -> None:
    largest = 10.0 ** np.random.default_rng(0).uniform(-1, 5, 500)
    scales = weight_scales(f32([largest]))
    exact = f32(largest) / np.float32(127)
    np.testing.assert_array_equal(scales, scales.astype(np.float16).astype(np.float32))
    assert (scales >= exact).all()
    assert (scales <= exact * (1 + 2.0**-10)).all()


def test_scales_are_never_subnormal_in_fp16_nor_infinite() -> None:
    scales = weight_scales(f32([[1e-6, 1e9]]))
    np.testing.assert_allclose(scales, [2.0**-14, 1e9 / 127], rtol=1e-6)


def test_scales_are_positive_even_for_zeros() -> None:
    assert activation_scale(seen([0, 0], [0, 0])) > 0
    weight = np.zeros((2, 3), dtype=np.float32)
    weight[:, 1] = 1
    scales = weight_scales(weight)
    assert (scales > 0).all()
    assert round_nearest(weight, scales).tolist() == [[0, 127, 0]] * 2
