"""Turn ranges into symmetric int8 steps.

Wu et al., "Integer Quantization for Deep Learning Inference: Principles and Empirical
Evaluation" (arXiv:2004.09602), section 3: scale = largest magnitude / 127, zero point 0.
"""

import numpy as np

from pipeline.config import ScaleMethod
from pipeline.quant.calibrate.statistics import Activation
from pipeline.vectors import FloatArray

LEVELS = np.float32(127)
PERCENTILE = 99.99
SMALLEST = np.float16(2.0**-14)
"""fp16's smallest normal number. A channel of zeros gets a positive step: TensorRT refuses 0."""


def activation_scale(observed: Activation, method: ScaleMethod = ScaleMethod.max) -> np.float32:
    """Return the per-tensor step; values beyond 127 of them are clipped.

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
            limits = largest * np.linspace(0.3, 1, 29, dtype=np.float32)
            limit = min(limits, key=lambda limit: _squared_error(values, limit / LEVELS))
    return np.float32(representable(np.full(1, limit / LEVELS, np.float32))[0])


def fake_quantize(values: FloatArray, step: np.float32) -> FloatArray:
    """Return the values as Q/DQ gives them back: whole steps, from -128 to 127 of them."""
    result: FloatArray = np.clip(np.rint(values / step), -LEVELS - 1, LEVELS) * step
    return result


def _squared_error(values: FloatArray, step: np.float32) -> float:
    error = fake_quantize(values, step) - values
    return float(np.vdot(error, error))


def weight_scales(weight: FloatArray) -> FloatArray:
    """Return the per-output-channel steps of a ``[in, out]`` weight, ``[out]``."""
    return representable(np.abs(weight).max(axis=0) / LEVELS)


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
