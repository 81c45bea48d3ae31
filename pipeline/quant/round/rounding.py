"""Round weights so that the GEMM's output changes least, not each weight by itself.

GPTQ: Frantar et al., "GPTQ: Accurate Post-Training Quantization for Generative Pre-trained
Transformers", ICLR 2023 (arXiv:2210.17323), with its activation order: channels are rounded one
after another, largest energy first, and the error of each is passed on to those not yet rounded,
along the correlations of the calibration activations.
"""

import numpy as np
from scipy.linalg import cholesky
from scipy.linalg.lapack import strtri

from pipeline.quant.calibrate.grid import INT8, Codes, Grid
from pipeline.vectors import DoubleArray, FloatArray

_BLOCK = 128
"""Rows whose errors reach the rows behind them in one product."""

_PART = 16
"""Rows of a block that are rounded in turn: few, since each row passes its error to all of them."""

_DAMPING = 0.01


def round_nearest(weight: FloatArray, scales: FloatArray, grid: Grid = INT8) -> Codes:
    """Round a weight ``[in, out]`` to the grid's nearest numbers times ``scales`` ``[out]``."""
    codes: Codes = grid.round(weight / scales).astype(grid.dtype)
    return codes


def round_gptq(
    weight: FloatArray,
    scales: FloatArray,
    covariance: DoubleArray,
    *,
    noise: float | FloatArray,
    grid: Grid = INT8,
) -> Codes:
    """Round a ``[in, out]`` weight to numbers of a grid in steps of ``scales`` ``[out]``.

    ``covariance`` is of what the GEMM reads, ``[in, in]`` (centred: the bias takes care of the
    mean); ``noise`` the variance that rounding the activations adds, to each channel or to all.
    Computed in fp32, as the paper's own code does: the damping keeps the smallest eigenvalue far
    above its rounding errors.
    """
    channels = len(weight)
    order = np.argsort(-np.diag(covariance))
    # The upper Cholesky factor of the inverse, from that of the reversed matrix: the inverse of a
    # triangle, a sixth of the work of inverting the whole.
    backwards = order[::-1]
    hessian = covariance.astype(np.float32)[np.ix_(backwards, backwards)]
    added = noise[backwards] if isinstance(noise, np.ndarray) else noise
    hessian[np.diag_indices(channels)] += added + _DAMPING * np.trace(covariance) / channels
    lower = cholesky(hessian, lower=True, overwrite_a=True)
    inverse, _ = strtri(lower, lower=1, overwrite_c=1)
    upper = np.ascontiguousarray(inverse[::-1, ::-1])
    rest = weight[order]
    steps = np.empty(rest.shape, grid.dtype)
    for block in _parts(0, channels, _BLOCK):
        errors = np.empty((block.stop - block.start, rest.shape[1]), np.float32)
        for part in _parts(block.start, block.stop, _PART):
            within = slice(part.start - block.start, part.stop - block.start)
            steps[part], errors[within] = _round_in_turn(
                rest[part], scales, upper[part, part], grid
            )
            behind = slice(part.stop, block.stop)
            rest[behind] -= upper[part, behind].T @ errors[within]
        behind = slice(block.stop, channels)
        rest[behind] -= upper[block, behind].T @ errors
    result = np.empty_like(steps)
    result[order] = steps
    return result


def _round_in_turn(
    rows: FloatArray, scales: FloatArray, upper: FloatArray, grid: Grid
) -> tuple[Codes, FloatArray]:
    """Round row after row, passing errors on to the rows behind; return steps and errors."""
    steps, errors = np.empty(rows.shape, grid.dtype), np.empty_like(rows)
    for i, row in enumerate(rows):
        nearest = grid.round(row / scales)
        steps[i] = nearest
        errors[i] = (row - nearest * scales) / upper[i, i]
        rows[i + 1 :] -= np.outer(upper[i, i + 1 :], errors[i])
    return steps, errors


def _parts(start: int, stop: int, size: int) -> list[slice]:
    return [slice(first, min(first + size, stop)) for first in range(start, stop, size)]
