"""Ranges to symmetric int8 steps.

Wu et al., "Integer Quantization for Deep Learning Inference: Principles and Empirical
Evaluation" (arXiv:2004.09602), section 3: scale = largest magnitude / 127, zero point 0.
"""

import numpy as np

from pipeline.quant.gemms import FloatArray
from pipeline.quant.statistics import Activation

LEVELS = np.float32(127)
_SMALLEST = np.float32(1e-8)
"""A channel of zeros still gets a positive step; TensorRT refuses a scale of zero."""


def activation_scale(observed: Activation) -> np.float32:
    """Return the per-tensor step that covers every calibrated value."""
    return np.float32(max(observed.magnitude().max() / LEVELS, _SMALLEST))


def weight_scales(weight: FloatArray) -> FloatArray:
    """Return the per-output-channel steps of a ``[in, out]`` weight, ``[out]``."""
    result: FloatArray = np.maximum(np.abs(weight).max(axis=0) / LEVELS, _SMALLEST)
    return result.astype(np.float32)
