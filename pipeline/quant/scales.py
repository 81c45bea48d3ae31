"""Ranges to symmetric int8 steps.

Wu et al., "Integer Quantization for Deep Learning Inference: Principles and Empirical
Evaluation" (arXiv:2004.09602), section 3: scale = largest magnitude / 127, zero point 0.
"""

import numpy as np
import numpy.typing as npt

from pipeline.quant.gemms import FloatArray
from pipeline.quant.statistics import ChannelRange

LEVELS = np.float32(127)
_SMALLEST = np.float32(1e-8)
"""A channel of zeros still gets a positive step; TensorRT refuses a scale of zero."""


def activation_scale(observed: ChannelRange) -> np.float32:
    """Return the per-tensor step that covers every calibrated value."""
    return np.float32(max(observed.magnitude.max() / LEVELS, _SMALLEST))


def weight_scales(weight: FloatArray) -> FloatArray:
    """Return the per-output-channel steps of a ``[in, out]`` weight, ``[out]``."""
    result: FloatArray = np.maximum(np.abs(weight).max(axis=0) / LEVELS, _SMALLEST)
    return result.astype(np.float32)


def round_weight(weight: FloatArray, scales: FloatArray) -> npt.NDArray[np.int8]:
    """Round a ``[in, out]`` weight to the nearest step, within ±127."""
    steps: npt.NDArray[np.int8] = np.clip(np.rint(weight / scales), -LEVELS, LEVELS).astype(np.int8)
    return steps
