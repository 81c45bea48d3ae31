"""Turn ranges into symmetric steps of a grid.

Wu et al., "Integer Quantization for Deep Learning Inference: Principles and Empirical
Evaluation" (arXiv:2004.09602), section 3: scale = largest magnitude / 127, zero point 0.
"""

import numpy as np

from pipeline.config import ScaleMethod
from pipeline.quant.calibrate.grid import INT8, Grid
from pipeline.quant.calibrate.statistics import Activation
from pipeline.vectors import FloatArray

LEVELS = INT8.largest
PERCENTILE = 99.99
SMALLEST = np.float16(2.0**-14)
"""fp16's smallest normal number. A channel of zeros gets a positive step: TensorRT refuses 0."""


_E4M3_LIMITS = np.float32(2) ** np.linspace(-1, 1, 17, dtype=np.float32)
"""Shares of the largest magnitude that E4M3's step is searched over: an octave is every place that
its numbers can have, below the largest value values saturate, above it more of them underflow."""


def activation_scale(
    observed: Activation, method: ScaleMethod = ScaleMethod.max, grid: Grid = INT8
) -> np.float32:
    """Return the per-tensor step; values beyond the largest number of the grid are clipped.

    ``max`` covers every calibrated value, ``percentile`` 99.99 % of them (section 3.3 there),
    ``mse`` is the step with the least squared error on the calibrated values (Choukroun et al.,
    "Low-bit Quantization of Neural Networks for Efficient Inference", arXiv:1902.06822). The last
    two are taken from the sampled tokens.
    """
    largest = observed.magnitude().max()
    match method:
        case ScaleMethod.max:
            limit = largest
        case ScaleMethod.percentile:
            limit = np.quantile(np.abs(observed.sample), PERCENTILE / 100)
        case ScaleMethod.mse:
            values = np.abs(observed.sample[::4]).ravel()
            shares = np.linspace(0.3, 1, 29, dtype=np.float32) if grid.even else _E4M3_LIMITS
            limit = min(
                largest * shares,
                key=lambda limit: _squared_error(values, limit / grid.largest, grid),
            )
    return np.float32(representable(np.full(1, limit / grid.largest, np.float32))[0])


def fake_quantize(values: FloatArray, step: np.float32, grid: Grid = INT8) -> FloatArray:
    """Return the values as Q/DQ gives them back."""
    result: FloatArray = grid.round_activation(values / step) * step
    return result


def _squared_error(values: FloatArray, step: np.float32, grid: Grid) -> float:
    error = fake_quantize(values, step, grid) - values
    return float(np.vdot(error, error))


def weight_scales(weight: FloatArray, grid: Grid = INT8) -> FloatArray:
    """Return the per-output-channel steps of a ``[in, out]`` weight, ``[out]``."""
    return representable(np.abs(weight).max(axis=0) / grid.largest)


def search_weight_scales(weight: FloatArray, energy: FloatArray, grid: Grid) -> FloatArray:
    """Return the per-output-channel steps with the least error at the output, ``[out]``.

    ``energy`` ``[in]`` is the mean square of what each row of ``weight`` is multiplied with. int8's
    step is that of the largest weight.
    """
    if grid.even:
        return weight_scales(weight)
    largest = np.abs(weight).max(axis=0)
    best = representable(largest / grid.largest)
    least = np.full(len(best), np.inf, np.float32)
    for share in _E4M3_LIMITS:
        steps = representable(largest * share / grid.largest)
        error = energy @ np.square(grid.round(weight / steps) * steps - weight)
        better = error < least
        best, least = np.where(better, steps, best), np.where(better, error, least)
    return best


def representable(steps: FloatArray) -> FloatArray:
    """Return the next larger numbers that fp16 holds too, as fp32.

    The graph for ONNX Runtime carries scales in fp32, the one for TensorRT in fp16: these are the
    same scales in both. A step beyond fp16 stays what it is.
    """
    with np.errstate(over="ignore"):
        half = steps.astype(np.float16)
        half = np.where(half < steps, np.nextafter(half, np.float16(np.inf)), half)
    half = np.maximum(half, SMALLEST)
    return np.where(np.isfinite(half), half, steps).astype(np.float32)
