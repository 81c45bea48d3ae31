import numpy as np
import numpy.typing as npt
import pytest

from pipeline.config import ScaleMethod
from pipeline.quant.calibrate.scales import LEVELS, activation_scale, fake_quantize, weight_scales
from pipeline.quant.calibrate.statistics import Activation
from pipeline.quant.round.rounding import round_nearest
from pipeline.vectors import FloatArray


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
        covariance=none,
        sample=none.astype(np.float32),
    )


def sampled(values: npt.ArrayLike) -> Activation:
    """Return statistics of tokens that are all in the sample, ``[tokens, channels]``."""
    sample = f32(values)
    none = np.zeros(0)
    return Activation(
        tokens=len(sample),
        low=sample.min(axis=0),
        high=sample.max(axis=0),
        mean=none,
        covariance=none,
        sample=sample,
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


@pytest.mark.parametrize("method", [ScaleMethod.max, ScaleMethod.mse])
def test_every_value_of_a_flat_distribution_is_covered(method: ScaleMethod) -> None:
    observed = sampled(np.linspace(-2, 2.54, 4000).reshape(1000, 4))
    assert activation_scale(observed, method) == pytest.approx(0.02, rel=1e-3)


@pytest.mark.parametrize(("outliers", "limit"), [(4, 1), (5, 100)])
def test_the_percentile_leaves_out_one_value_in_ten_thousand(outliers: int, limit: float) -> None:
    values = np.arange(1, 40_001).reshape(1000, 40) / 40_000
    values[3, :outliers] = -100
    step = activation_scale(sampled(values), ScaleMethod.percentile)
    assert step * LEVELS == pytest.approx(limit, rel=0.02)


def test_the_range_may_hold_values_that_the_sample_does_not() -> None:
    observed = seen([-1270, 0], [0, 1])
    assert activation_scale(observed, ScaleMethod.max) == pytest.approx(10, rel=1e-3)


@pytest.mark.parametrize("seed", range(4))
def test_the_mse_step_loses_less_than_any_other(seed: int) -> None:
    """Of values that come four times, since it is looked for on a quarter of the tokens."""
    values = f32(np.repeat(np.random.default_rng(seed).laplace(size=(250, 32)), 4, axis=0))

    def lost(step: float) -> float:
        return float(np.square(fake_quantize(values, np.float32(step)) - values).sum())

    observed = sampled(values)
    best, widest = (activation_scale(observed, m) for m in (ScaleMethod.mse, ScaleMethod.max))
    others = np.linspace(0.2, 1.2, 60) * widest
    assert lost(float(best)) <= 1.05 * min(map(lost, others))
    assert best < widest
    assert lost(float(best)) < lost(float(widest))


def test_values_come_back_as_whole_steps_from_minus_128_to_127_of_them() -> None:
    values = f32([-1000, -64.2, -64, -0.26, 0.24, 0.3, 0.75, 63.4, 63.6, 1000])
    expected = f32([-64, -64, -64, -0.5, 0, 0.5, 1, 63.5, 63.5, 63.5])
    np.testing.assert_array_equal(fake_quantize(values, np.float32(0.5)), expected)


def test_the_middle_between_two_steps_goes_to_the_even_one() -> None:
    """As QuantizeLinear rounds."""
    values = f32([-1.5, -0.5, 0.5, 1.5, 2.5])
    assert fake_quantize(values, np.float32(1)).tolist() == [-2, 0, 0, 2, 2]
