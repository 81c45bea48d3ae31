"""Round weights so that the GEMM's output changes least, not each weight by itself.

GPTQ: Frantar et al., "GPTQ: Accurate Post-Training Quantization for Generative Pre-trained
Transformers", ICLR 2023 (arXiv:2210.17323), with its activation order: channels are rounded one
after another, largest energy first, and the error of each is passed on to those not yet rounded,
along the correlations of the calibration activations.
"""

import numpy as np
import numpy.typing as npt
from scipy.linalg import cholesky, solve_triangular

from pipeline.quant.calibrate.scales import LEVELS
from pipeline.vectors import DoubleArray, FloatArray

_BLOCK = 128
_DAMPING = 0.01


def round_nearest(weight: FloatArray, scales: FloatArray) -> npt.NDArray[np.int8]:
    """Round a ``[in, out]`` weight to the nearest step of ``scales`` ``[out]``, within ±127."""
    steps: npt.NDArray[np.int8] = np.clip(np.rint(weight / scales), -LEVELS, LEVELS).astype(np.int8)
    return steps


def round_gptq(
    weight: FloatArray, scales: FloatArray, covariance: DoubleArray, *, noise: float
) -> npt.NDArray[np.int8]:
    """Round a ``[in, out]`` weight to steps of ``scales`` ``[out]``, within ±127.

    ``covariance`` is of what the GEMM reads, ``[in, in]`` (centred: the bias takes care of the
    mean); ``noise`` the variance that rounding the activations adds to each channel.
    """
    channels = len(weight)
    hessian = covariance + (noise + _DAMPING * np.trace(covariance) / channels) * np.eye(channels)
    order = np.argsort(-np.diag(hessian))
    hessian = hessian[np.ix_(order, order)]
    # The upper Cholesky factor of the inverse, from that of the reversed matrix: one triangular
    # solve instead of an inverse.
    lower = cholesky(hessian[::-1, ::-1], lower=True)
    upper = solve_triangular(lower, np.eye(channels), lower=True)[::-1, ::-1]
    rest = weight[order].astype(np.float64)
    step = scales.astype(np.float64)
    steps = np.empty_like(rest)
    limit = float(LEVELS)
    for start in range(0, channels, _BLOCK):
        stop = min(start + _BLOCK, channels)
        errors = np.empty((stop - start, rest.shape[1]))
        for i in range(start, stop):
            steps[i] = np.clip(np.rint(rest[i] / step), -limit, limit)
            error = (rest[i] - steps[i] * step) / upper[i, i]
            rest[i:stop] -= np.outer(upper[i, i:stop], error)
            errors[i - start] = error
        rest[stop:] -= upper[start:stop, stop:].T @ errors
    result = np.empty_like(steps)
    result[order] = steps
    return result.astype(np.int8)
