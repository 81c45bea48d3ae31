"""Choose how hard to smooth a group, and its activation step, by the error on held-back tokens.

SmoothQuant's migration strength (eq. 4 of arXiv:2211.10438) trades error of the activations for
error of the weights. Every pair of a candidate strength and a scale method is tried: ranges and
factors come from the calibration tokens, the error is counted on tokens that were held back, so a
choice that fits the calibration text too closely loses.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.config import ScaleMethod
from pipeline.quant.calibrate.grid import INT8, Grid
from pipeline.quant.calibrate.scales import activation_scale, fake_quantize, weight_scales
from pipeline.quant.calibrate.statistics import Activation
from pipeline.quant.condition.smoothing import smoothing_factors
from pipeline.vectors import FloatArray

_TOKENS = 512
"""Held-back tokens that a candidate is tried on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Strength:
    """What was chosen for a group; ``factors`` are what its channels are divided by.

    ``error`` is what is left at the GEMMs' outputs, as a share of their variance, summed over them.
    """

    alpha: float
    method: ScaleMethod
    factors: FloatArray
    error: float


def choose_strength(
    fitted: Activation,
    held: Activation,
    weights: Sequence[FloatArray],
    shift: FloatArray,
    alphas: Sequence[float],
    methods: Sequence[ScaleMethod],
    *,
    rounding_share: float = 1.0,
    grid: Grid = INT8,
) -> Strength:
    """Return the strength and scale method with the least error at the GEMMs' outputs.

    ``weights`` are ``[in, out]``, ``shift`` is ``[in]``. ``rounding_share`` is how much of the
    error of rounding to nearest the weight rounding in use leaves. E4M3 is tried without smoothing
    first (strength 0): its error is a share of each number, wherever that lies.
    """
    best: Strength | None = None
    fitted = fitted.without_covariance()
    exact = held.sample[:_TOKENS] - shift
    variances = [np.var(exact @ weight, axis=0).sum() for weight in weights]
    unsmoothed = [] if grid.even else [0.0]
    for alpha in (*unsmoothed, *alphas):
        if alpha or grid.even:
            factors = smoothing_factors(fitted.magnitude(shift), weights, alpha)
        else:
            factors = np.ones_like(fitted.low)
        smoothed = fitted.transformed(shift, factors)
        tokens = exact / factors
        for method in methods:
            step = activation_scale(smoothed, method, grid)
            lost = fake_quantize(tokens, step, grid) - tokens
            error = sum(
                _error(tokens, lost, weight * factors[:, None], rounding_share, grid) / variance
                for weight, variance in zip(weights, variances, strict=True)
            )
            if best is None or error < best.error:
                best = Strength(alpha=alpha, method=method, factors=factors, error=float(error))
    assert best is not None
    return best


def _error(
    tokens: FloatArray, lost: FloatArray, weight: FloatArray, rounding_share: float, grid: Grid
) -> float:
    """Return the mean squared error of ``tokens @ weight``, summed over outputs.

    That of the activations is computed, that of the weights is the usual Δ²/12 per weight in int8
    and computed in E4M3.
    """
    activations = np.square(lost @ weight).mean(axis=0).sum()
    if grid.even:
        rounding = np.square(weight_scales(weight)).sum() / 12 * np.var(tokens, axis=0).sum()
    else:
        scales = weight_scales(weight, grid)
        lost_weight = grid.round(weight / scales) * scales - weight
        rounding = np.var(tokens, axis=0) @ np.square(lost_weight).sum(axis=1)
    return float(activations + rounding_share * rounding)
