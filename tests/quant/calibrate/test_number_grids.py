"""The two grids: int8's as it always was, E4M3's as ml_dtypes and PyTorch round."""

import ml_dtypes
import numpy as np
import pytest
import torch

from pipeline.config import NumericType, ScaleMethod
from pipeline.quant.calibrate.grid import E4M3, INT8, grid_of
from pipeline.quant.calibrate.scales import (
    activation_scale,
    fake_quantize,
    search_weight_scales,
    weight_scales,
)
from pipeline.quant.round.rounding import round_gptq, round_nearest
from pipeline.vectors import FloatArray


def draw(seed: int, *shape: int) -> FloatArray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def test_every_code_of_e4m3_rounds_to_itself() -> None:
    codes = np.arange(256, dtype=np.uint8).view(ml_dtypes.float8_e4m3fn)
    numbers = codes.astype(np.float32)
    numbers = numbers[np.isfinite(numbers)]
    assert len(numbers) == 254
    assert numbers.max() == E4M3.largest == torch.finfo(torch.float8_e4m3fn).max
    np.testing.assert_array_equal(E4M3.round(numbers), numbers)


def test_e4m3_rounds_as_pytorch_does_and_saturates() -> None:
    values = (draw(0, 4000) * 10.0 ** np.random.default_rng(1).uniform(-4, 2, 4000)).astype("f4")
    values = np.clip(values, -448, 448)
    expected = torch.from_numpy(values).to(torch.float8_e4m3fn).float().numpy()
    np.testing.assert_array_equal(E4M3.round(values), expected)
    beyond = np.array([1e6, -1e6, 460], np.float32)
    np.testing.assert_array_equal(E4M3.round(beyond), [448, -448, 448])


def test_int8_reaches_one_step_further_down_for_activations_only() -> None:
    values = np.array([-200, -127.6, 0.5, 1.5, 200], np.float32)
    np.testing.assert_array_equal(INT8.round(values), [-127, -127, 0, 2, 127])
    np.testing.assert_array_equal(INT8.round_activation(values), [-128, -128, 0, 2, 127])


def test_only_what_quantizes_has_a_grid() -> None:
    assert grid_of(NumericType.int8) is INT8
    assert grid_of(NumericType.fp8) is E4M3
    with pytest.raises(KeyError):
        grid_of(NumericType.fp16)


def test_searched_weight_scales_lose_less_than_those_of_the_largest_weight() -> None:
    weight, energy = draw(2, 64, 40), np.square(draw(3, 64)) + np.float32(0.1)

    def lost(scales: FloatArray) -> FloatArray:
        error: FloatArray = energy @ np.square(E4M3.round(weight / scales) * scales - weight)
        return error

    found, plain = search_weight_scales(weight, energy, E4M3), weight_scales(weight, E4M3)
    assert (lost(found) <= lost(plain)).all()
    assert lost(found).sum() < 0.9 * lost(plain).sum()
    np.testing.assert_array_equal(search_weight_scales(weight, energy, INT8), weight_scales(weight))


def test_gptq_on_e4m3_loses_less_at_the_output_than_rounding_to_nearest() -> None:
    tokens = (draw(4, 500, 32) @ draw(5, 32, 32)).astype(np.float32)
    weight = draw(6, 32, 24)
    scales = weight_scales(weight, E4M3)
    covariance = np.cov(tokens.T, bias=True)
    noise = np.full(32, 1e-4, np.float32)
    codes = round_gptq(weight, scales, covariance, noise=noise, grid=E4M3)
    assert codes.dtype == ml_dtypes.float8_e4m3fn

    def lost(rounded: FloatArray) -> float:
        return float(np.square(tokens @ (rounded * scales - weight)).sum())

    nearest = round_nearest(weight, scales, E4M3).astype(np.float32)
    assert lost(codes.astype(np.float32)) < 0.6 * lost(nearest)


def test_the_searched_step_of_an_activation_loses_no_more_than_the_largest_ones() -> None:
    from simulated import statistics_of

    tokens = draw(7, 512, 16)
    observed = statistics_of(tokens)
    steps = [activation_scale(observed, m, E4M3) for m in (ScaleMethod.mse, ScaleMethod.max)]
    errors = [float(np.square(fake_quantize(tokens, s, E4M3) - tokens).sum()) for s in steps]
    assert errors[0] <= errors[1] * 1.01
    assert steps[1] == pytest.approx(np.abs(tokens).max() / 448, rel=2e-3)
