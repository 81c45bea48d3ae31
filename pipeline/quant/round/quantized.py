"""Quantize a group of GEMMs: integers and steps, before they are written into the graph."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.config import Rounding
from pipeline.graph.gemms import Gemm, GemmGroup
from pipeline.quant.calibrate.grid import INT8, Codes, Grid
from pipeline.quant.calibrate.scales import fake_quantize, search_weight_scales
from pipeline.quant.calibrate.statistics import Activation
from pipeline.quant.round.bias_correction import bias_correction
from pipeline.quant.round.descent import descend
from pipeline.quant.round.rounding import round_gptq, round_nearest
from pipeline.vectors import FloatArray


@dataclass(slots=True, kw_only=True)
class QuantizedGemm:
    """One GEMM: ``[in, out]`` numbers of the grid, ``[out]`` steps, ``[out]`` bias change."""

    gemm: Gemm
    integers: Codes
    scales: FloatArray
    bias_delta: FloatArray


@dataclass(slots=True, kw_only=True)
class QuantizedGroup:
    """GEMMs that read one tensor, and the step of that tensor."""

    group: GemmGroup
    step: np.float32
    gemms: list[QuantizedGemm]
    grid: Grid = INT8


def quantize_group(
    group: GemmGroup,
    fitted: Activation,
    step: np.float32,
    *,
    rounding: Rounding,
    correct_bias: bool,
    grid: Grid = INT8,
) -> QuantizedGroup:
    """Round the weights of a group, together since they read the same tensor."""
    joined = np.concatenate([gemm.weight for gemm in group.gemms], axis=1)
    scales = search_weight_scales(joined, np.square(fitted.sample).mean(axis=0), grid)
    if rounding is Rounding.gptq:
        assert fitted.covariance is not None
        noise = _activation_noise(fitted, step, grid)
        integers = round_gptq(joined, scales, fitted.covariance, noise=noise, grid=grid)
        if not grid.even:
            integers = descend(joined, integers, scales, fitted.covariance, noise=noise, grid=grid)
    else:
        integers = round_nearest(joined, scales, grid)
    delta = np.zeros(len(scales), np.float32)
    if correct_bias:
        lost = np.zeros_like(fitted.low)
        if grid.even:  # E4M3 rounds what is near 0 as finely as the rest; there it won nothing
            lost = (fitted.sample - fake_quantize(fitted.sample, step, grid)).mean(axis=0)
        delta = bias_correction(fitted.mean, lost, joined, integers, scales)
    cuts = np.cumsum([gemm.weight.shape[1] for gemm in group.gemms])[:-1]
    parts = zip(
        group.gemms,
        np.split(integers, cuts, axis=1),
        np.split(scales, cuts),
        np.split(delta, cuts),
        strict=True,
    )
    return QuantizedGroup(
        grid=grid,
        group=group,
        step=step,
        gemms=[
            QuantizedGemm(
                gemm=gemm,
                integers=part,
                scales=steps,
                bias_delta=change if gemm.bias is not None else np.zeros_like(change),
            )
            for gemm, part, steps, change in parts
        ],
    )


def _activation_noise(fitted: Activation, step: np.float32, grid: Grid) -> float | FloatArray:
    """Return the variance that rounding adds: of int8 the same everywhere, of E4M3 by channel."""
    if grid.even:
        return float(step) ** 2 / 12
    lost = fake_quantize(fitted.sample, step, grid) - fitted.sample
    noise: FloatArray = np.square(lost).mean(axis=0)
    return noise


def output_errors(quantized: QuantizedGroup, held: Activation) -> Sequence[float]:
    """Return each GEMM's error on held-back tokens, as a share of its output's variance."""
    tokens = held.sample
    rounded = fake_quantize(tokens, quantized.step, quantized.grid)
    errors = []
    for part in quantized.gemms:
        exact = tokens @ part.gemm.weight
        seen = rounded @ (part.integers.astype(np.float32) * part.scales) + part.bias_delta
        errors.append(float(np.square(seen - exact).mean(axis=0).sum() / exact.var(axis=0).sum()))
    return errors
