"""Quantize a group of GEMMs: integers and steps, before they are written into the graph."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipeline.config import Rounding
from pipeline.graph.gemms import Gemm, GemmGroup
from pipeline.quant.calibrate.scales import fake_quantize, weight_scales
from pipeline.quant.calibrate.statistics import Activation
from pipeline.quant.round.bias_correction import bias_correction
from pipeline.quant.round.rounding import round_gptq, round_nearest
from pipeline.vectors import FloatArray


@dataclass(slots=True, kw_only=True)
class QuantizedGemm:
    """One GEMM's ``[in, out]`` integers, ``[out]`` steps, and what to add to its ``[out]`` bias."""

    gemm: Gemm
    integers: npt.NDArray[np.int8]
    scales: FloatArray
    bias_delta: FloatArray


@dataclass(slots=True, kw_only=True)
class QuantizedGroup:
    """GEMMs that read one tensor, and the step of that tensor."""

    group: GemmGroup
    step: np.float32
    gemms: list[QuantizedGemm]


def quantize_group(
    group: GemmGroup,
    fitted: Activation,
    step: np.float32,
    *,
    rounding: Rounding,
    correct_bias: bool,
) -> QuantizedGroup:
    """Round the weights of a group, together since they read the same tensor."""
    joined = np.concatenate([gemm.weight for gemm in group.gemms], axis=1)
    scales = weight_scales(joined)
    if rounding is Rounding.gptq:
        assert fitted.covariance is not None
        integers = round_gptq(joined, scales, fitted.covariance, noise=float(step) ** 2 / 12)
    else:
        integers = round_nearest(joined, scales)
    delta = np.zeros(len(scales), np.float32)
    if correct_bias:
        delta = bias_correction(fitted.mean, joined, integers, scales)
    cuts = np.cumsum([gemm.weight.shape[1] for gemm in group.gemms])[:-1]
    parts = zip(
        group.gemms,
        np.split(integers, cuts, axis=1),
        np.split(scales, cuts),
        np.split(delta, cuts),
        strict=True,
    )
    return QuantizedGroup(
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


def output_errors(quantized: QuantizedGroup, held: Activation) -> Sequence[float]:
    """Return each GEMM's error on held-back tokens, as a share of its output's variance."""
    tokens = held.sample
    rounded = fake_quantize(tokens, quantized.step)
    errors = []
    for part in quantized.gemms:
        exact = tokens @ part.gemm.weight
        seen = rounded @ (part.integers * part.scales) + part.bias_delta
        errors.append(float(np.square(seen - exact).mean(axis=0).sum() / exact.var(axis=0).sum()))
    return errors
