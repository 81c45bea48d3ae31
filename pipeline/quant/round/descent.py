"""Round weights once more, each given what all the others have become.

GPTQ passes an error on to the channels that it has not rounded yet, so the last ones have nobody to
pass theirs to, and the first ones never hear of them. Behdin et al., "QuantEase: Optimization-based
Quantization for Language Models" (arXiv:2309.01885), go over all channels again and again: each is
given the numbers of the grid that are best beside the other channels' numbers. No step makes the
error at the output larger.
"""

import numpy as np

from pipeline.quant.calibrate.grid import Codes, Grid
from pipeline.vectors import DoubleArray, FloatArray

_SWEEPS = 3
_BLOCK = 64
"""Channels whose changes reach all others in one product."""


def descend(
    weight: FloatArray,
    codes: Codes,
    scales: FloatArray,
    covariance: DoubleArray,
    *,
    noise: float | FloatArray,
    grid: Grid,
) -> Codes:
    """Return better numbers of the grid for a ``[in, out]`` weight than ``codes``.

    ``covariance`` is of what the GEMM reads, ``[in, in]``, ``noise`` the variance that rounding
    it adds, to each channel or to all.
    """
    hessian = covariance.astype(np.float32)
    hessian[np.diag_indices(len(weight))] += noise
    energy = np.maximum(np.diag(hessian), np.finfo(np.float32).tiny)
    order = np.argsort(-energy)
    rounded = codes.astype(np.float32) * scales
    slope = hessian @ (rounded - weight)
    for _ in range(_SWEEPS):
        for start in range(0, len(order), _BLOCK):
            block = order[start : start + _BLOCK]
            within, slopes = hessian[np.ix_(block, block)], slope[block]
            changes = np.empty_like(slopes)
            for i, channel in enumerate(block):
                exact = rounded[channel] - slopes[i] / energy[channel]
                best = grid.round(exact / scales) * scales
                changes[i] = best - rounded[channel]
                rounded[channel] = best
                slopes += np.outer(within[:, i], changes[i])
            slope += hessian[:, block] @ changes
    result: Codes = grid.round(rounded / scales).astype(grid.dtype)
    return result
