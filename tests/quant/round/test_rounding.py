import numpy as np
import numpy.typing as npt
import pytest

from pipeline.quant.calibrate.scales import weight_scales
from pipeline.quant.round.bias_correction import bias_correction
from pipeline.quant.round.rounding import round_gptq, round_nearest
from pipeline.vectors import FloatArray


def f32(values: npt.ArrayLike) -> FloatArray:
    return np.array(values, dtype=np.float32)


def draw_weight(seed: int) -> FloatArray:
    """Draw a weight whose output channels differ in size by many orders of magnitude."""
    random = np.random.default_rng(seed)
    sizes = 10.0 ** random.uniform(-2, 4, 24)
    return (random.normal(size=(16, 24)) * sizes).astype(np.float32)


def draw_rows(seed: int, channels: int) -> FloatArray:
    """Draw correlated activations with an offset, ``[tokens, channels]``."""
    random = np.random.default_rng(seed)
    mixing = random.normal(size=(channels, channels)) * 10.0 ** random.uniform(-1, 1, channels)
    return (random.normal(size=(400, channels)) @ mixing + 5).astype(np.float32)


@pytest.mark.parametrize("seed", range(5))
def test_rounding_is_off_by_half_a_step_at_most(seed: int) -> None:
    weight = draw_weight(seed)
    scales = weight_scales(weight)
    integers = round_nearest(weight, scales)
    error = np.abs(integers.astype(np.float64) * scales - weight)
    assert (error <= 0.5001 * scales).all()
    assert integers.dtype == np.int8


@pytest.mark.parametrize("seed", range(5))
def test_every_channel_uses_the_whole_symmetric_range(seed: int) -> None:
    weight = draw_weight(seed)
    integers = round_nearest(weight, weight_scales(weight)).astype(int)
    assert np.abs(integers).max(axis=0).tolist() == [127] * 24


def test_values_beyond_the_scale_saturate_at_127() -> None:
    weight = f32([[500.0], [-500.0]])
    assert round_nearest(weight, f32([1.0])).tolist() == [[127], [-127]]


@pytest.mark.parametrize("channels", [20, 128, 300])
def test_gptq_changes_the_output_less_than_rounding_to_nearest(channels: int) -> None:
    rows = draw_rows(1, channels)
    weight = np.random.default_rng(2).normal(size=(channels, 8)).astype(np.float32)
    scales = weight_scales(weight) * 8
    centred = rows - rows.mean(axis=0)

    def error(integers: npt.NDArray[np.int8]) -> float:
        return float(np.square(centred @ (integers * scales - weight)).mean())

    covariance = np.cov(rows.T.astype(np.float64), bias=True)
    clever, plain = round_gptq(weight, scales, covariance, noise=0.0), round_nearest(weight, scales)
    assert error(clever) < 0.7 * error(plain)
    assert np.abs(clever.astype(int)).max() <= 127


def test_gptq_rounds_to_nearest_where_channels_are_independent() -> None:
    weight = np.random.default_rng(3).normal(size=(20, 6)).astype(np.float32)
    scales = weight_scales(weight)
    covariance = np.diag(np.random.default_rng(4).uniform(0.1, 10, 20))
    integers = round_gptq(weight, scales, covariance, noise=0.01)
    np.testing.assert_array_equal(integers, round_nearest(weight, scales))


def test_gptq_copes_with_channels_that_never_move() -> None:
    weight = np.random.default_rng(5).normal(size=(6, 3)).astype(np.float32)
    integers = round_gptq(weight, weight_scales(weight), np.zeros((6, 6)), noise=1e-9)
    np.testing.assert_array_equal(integers, round_nearest(weight, weight_scales(weight)))


def test_noise_holds_errors_from_being_passed_along_weak_correlations() -> None:
    weight = np.random.default_rng(6).normal(size=(30, 4)).astype(np.float32)
    scales = weight_scales(weight) * 16
    covariance = np.cov(draw_rows(7, 30).T.astype(np.float64), bias=True)
    drowned = round_gptq(weight, scales, covariance, noise=1e9)
    np.testing.assert_array_equal(drowned, round_nearest(weight, scales))


def test_bias_correction_restores_the_mean_output_of_rounded_tokens() -> None:
    rows = draw_rows(8, 12).astype(np.float64)
    seen = np.floor(rows)
    weight = np.random.default_rng(9).normal(size=(12, 5)).astype(np.float32)
    scales = weight_scales(weight) * 10
    integers = round_nearest(weight, scales)
    lost = (rows - seen).mean(axis=0).astype(np.float32)
    delta = bias_correction(rows.mean(axis=0), lost, weight, integers, scales)
    mean = (seen @ (integers * scales) + delta).mean(axis=0)
    np.testing.assert_allclose(mean, (rows @ weight).mean(axis=0), rtol=1e-4, atol=1e-4)
