"""Ranges to symmetric int8 steps.

Wu et al., "Integer Quantization for Deep Learning Inference: Principles and Empirical
Evaluation" (arXiv:2004.09602), section 3: scale = largest magnitude / 127, zero point 0.
"""

import numpy as np

from pipeline.quant.gemms import FloatArray
from pipeline.quant.statistics import Activation

LEVELS = np.float32(127)
_SMALLEST = np.float16(2.0**-14)
"""fp16's smallest normal number. A channel of zeros gets a positive step: TensorRT refuses 0."""


def activation_scale(observed: Activation) -> np.float32:
    """Return the per-tensor step that covers every calibrated value."""
    return np.float32(_representable(observed.magnitude().max(keepdims=True) / LEVELS)[0])


def weight_scales(weight: FloatArray) -> FloatArray:
    """Return the per-output-channel steps of a ``[in, out]`` weight, ``[out]``."""
    return _representable(np.abs(weight).max(axis=0) / LEVELS)


def _representable(steps: FloatArray) -> FloatArray:
    """Return the next larger numbers that fp16 holds too, as fp32.

    The graph for ONNX Runtime carries scales in fp32, the one for TensorRT in fp16: these are the
    same scales in both. A step beyond fp16 stays what it is.
    """
    with np.errstate(over="ignore"):
        half = steps.astype(np.float16)
        half = np.where(half < steps, np.nextafter(half, np.float16(np.inf)), half)
    half = np.maximum(half, _SMALLEST)
    return np.where(np.isfinite(half), half, steps).astype(np.float32)
