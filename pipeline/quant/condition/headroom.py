"""Leave room beyond what calibration text reached, where a range has not been seen to its end.

A unit behind an activation function fires rarely: its largest calibrated value lies ten and more
deviations out, unseen text goes beyond it, and what is clipped there is lost whole. In
all-mpnet-base-v2 that costs more than rounding such a tensor does (docs/adr/0008). How far ranges
are stretched is chosen with the smoothing strength, by the error on held-back tokens. Where ranges
end at a few deviations, as behind a norm, they have been seen to their end and stay.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from pipeline.config import ScaleMethod
from pipeline.quant.calibrate.statistics import Activation
from pipeline.quant.condition.smoothing import midrange
from pipeline.quant.condition.strength import Strength, choose_strength
from pipeline.vectors import FloatArray

_SEEN_TO_THE_END = 7.0
"""Half a channel's range in standard deviations: 4 behind norms, 10 behind a sparse GELU."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """Where a tensor's steps go: its statistics with the room left, its shift, its strength."""

    fitted: Activation
    headroom: float
    shift: FloatArray
    strength: Strength


def place_steps(
    fitted: Activation,
    held: Activation,
    weights: Sequence[FloatArray],
    headrooms: Sequence[float],
    alphas: Sequence[float],
    methods: Sequence[ScaleMethod],
    *,
    shifts: bool,
    rounding_share: float,
) -> Placement:
    """Return the headroom, strength and scale method with the least error at the GEMMs' outputs.

    ``weights`` are ``[in, out]``. Other headrooms than the first are tried on heavy-tailed tensors
    only.
    """
    tried = headrooms if is_heavy_tailed(fitted) else headrooms[:1]
    placements = []
    for headroom in tried:
        widened = widen(fitted, headroom)
        shift = midrange(widened) if shifts else np.zeros_like(fitted.low)
        strength = choose_strength(
            widened, held, weights, shift, alphas, methods, rounding_share=rounding_share
        )
        placements.append(
            Placement(fitted=widened, headroom=headroom, shift=shift, strength=strength)
        )
    return min(placements, key=lambda placement: placement.strength.error)


def is_heavy_tailed(observed: Activation) -> bool:
    """Whether the median channel's range ends far out, in standard deviations of its sample."""
    deviations = observed.sample.std(axis=0)
    half_ranges = observed.magnitude(midrange(observed))
    alive = deviations > 0
    return bool(
        alive.any() and np.median(half_ranges[alive] / deviations[alive]) > _SEEN_TO_THE_END
    )


def widen(observed: Activation, headroom: float) -> Activation:
    """Return the statistics with both ends ``headroom`` times as far from the mean.

    A side that ends near the mean, as GELU's lower one, hardly moves.
    """
    mean = observed.mean.astype(np.float32)
    room = np.float32(headroom)
    return replace(
        observed,
        low=mean - room * (mean - observed.low),
        high=mean + room * (observed.high - mean),
    )
