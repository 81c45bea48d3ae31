"""Coordinate descent behind GPTQ: it loses less, and stops where nothing is to be won."""

import ml_dtypes
import numpy as np
import pytest

from pipeline.quant.calibrate.grid import E4M3, INT8, Codes, Grid
from pipeline.quant.calibrate.scales import weight_scales
from pipeline.quant.round.descent import descend
from pipeline.quant.round.rounding import round_gptq, round_nearest
from pipeline.vectors import DoubleArray, FloatArray


def draw(seed: int, *shape: int) -> FloatArray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def covariance_of(channels: int) -> DoubleArray:
    """Return that of channels that go together, some of them much larger than others."""
    mixed = draw(1, channels, channels) * np.exp(draw(2, channels))
    tokens = draw(3, 8 * channels, channels // 2) @ mixed[: channels // 2]
    covariance: DoubleArray = np.cov(tokens.T.astype(np.float64), bias=True)
    return covariance


@pytest.mark.parametrize("grid", [E4M3, INT8], ids=["E4M3", "INT8"])
@pytest.mark.parametrize("channels", [24, 64, 150])
def test_no_output_loses_more_than_with_gptq_and_all_together_a_tenth_less(
    channels: int, grid: Grid
) -> None:
    weight, covariance = draw(4, channels, 40), covariance_of(channels)
    scales = weight_scales(weight, grid) * (1 if grid is E4M3 else 8)
    noise = np.full(channels, np.trace(covariance) / channels / 500, np.float32)
    hessian = covariance + np.diag(noise)

    def lost(codes: Codes) -> DoubleArray:
        error = codes.astype(np.float64) * scales - weight
        result: DoubleArray = (error * (hessian @ error)).sum(axis=0)
        return result

    first = round_gptq(weight, scales, covariance, noise=noise, grid=grid)
    better = descend(weight, first, scales, covariance, noise=noise, grid=grid)
    assert better.dtype == first.dtype
    assert (lost(better) <= lost(first) * 1.0001).all()
    assert lost(better).sum() < 0.9 * lost(first).sum()


def test_independent_channels_are_rounded_to_nearest_from_anywhere() -> None:
    weight = draw(5, 20, 6)
    scales = weight_scales(weight, E4M3)
    covariance = np.diag(np.random.default_rng(6).uniform(0.1, 10, 20))
    zeros = np.zeros(weight.shape, ml_dtypes.float8_e4m3fn)
    codes = descend(weight, zeros, scales, covariance, noise=0.01, grid=E4M3)
    np.testing.assert_array_equal(codes, round_nearest(weight, scales, E4M3))


def test_channels_that_never_move_keep_their_numbers() -> None:
    weight = draw(7, 6, 3)
    scales = weight_scales(weight, E4M3)
    nearest = round_nearest(weight, scales, E4M3)
    codes = descend(weight, nearest, scales, np.zeros((6, 6)), noise=0.0, grid=E4M3)
    np.testing.assert_array_equal(codes, nearest)
