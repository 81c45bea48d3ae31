"""Suspect that tonight is slower, by the nights before; conclude, by old bundles beside the new.

Two comparisons raise it. ``step``: tonight against the median of the last ten nights. ``creep``:
the median of the last five nights against that of the first ten since the anchor, a bundle that is
kept until something faster or accepted takes its place; a loss too small to see in any one night
adds up there. Both allow for a width that follows the line's own noise. ``benchmarks/nights.py``
measures how often they see what there is, and what there is not.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.history.judge.series import Series
from pipeline.history.judge.steps import noise
from pipeline.history.keep.records import Kind
from pipeline.measure.speed.intervals import Speedup

WINDOW = 10
RECENT = 5
LEAST_NIGHTS = 5
"""With fewer nights there is no level to be slower than."""
NOISE_NIGHTS = 30
WIDTH = 1.25
"""A suspicion takes a loss of so many standard deviations of one night's noise, …"""
LEAST_LOSS = 0.02
"""… and at least this share: less is within what two sessions of one bundle differ by."""

PREVIOUS, ANCHOR = "the previous bundle", "the anchor"
"""The older bundles that are timed beside tonight's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Suspicion:
    """Tonight, or the last five nights, are slower than ``expected`` by the share ``loss``."""

    rule: str
    expected: float
    loss: float
    nights: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Beside:
    """Tonight's bundle timed beside an older one: times as fast as that, once a repetition.

    ``reason`` says why it could not be, in place of them.
    """

    name: str
    speedups: Sequence[Speedup] = ()
    reason: str | None = None

    @property
    def slower(self) -> bool:
        """Whether tonight's is slower, every time that both were opened anew."""
        return bool(self.speedups) and all(one.verdict == "slower" for one in self.speedups)


def suspect(before: Series, tonight: float, anchored: Series) -> Suspicion | None:
    """Return what makes tonight's value look slower than ``before``, or None.

    ``anchored`` is the part of ``before`` that the anchor's level is measured on.
    """
    width = allowance(before)
    if width is None:
        return None
    window = before.values[-WINDOW:]
    expected = float(np.median(window))
    if (loss := 1 - tonight / expected) > width:
        return Suspicion(rule="step", expected=expected, loss=loss, nights=len(window))
    levels = _levels(before, tonight, anchored)
    if levels is not None and (loss := 1 - levels[1] / levels[0]) > width:
        return Suspicion(rule="creep", expected=levels[0], loss=loss, nights=WINDOW)
    return None


def has_improved(before: Series, tonight: float, anchored: Series) -> bool:
    """Return whether the last five nights are faster than the anchor's level by the same width."""
    width, levels = allowance(before), _levels(before, tonight, anchored)
    return width is not None and levels is not None and levels[1] / levels[0] - 1 > width


def allowance(before: Series) -> float | None:
    """Return the share of loss that is taken for noise, or None with too few nights."""
    if len(before.values) < LEAST_NIGHTS:
        return None
    return max(LEAST_LOSS, WIDTH * noise(np.log(before.values[-NOISE_NIGHTS:])))


def _levels(before: Series, tonight: float, anchored: Series) -> tuple[float, float] | None:
    """Return the anchor's level and that of the last five nights; None where they would overlap."""
    if len(anchored.values) < WINDOW + RECENT - 1:
        return None
    recent = [*before.values[1 - RECENT :], tonight]
    return float(np.median(anchored.values[:WINDOW])), float(np.median(recent))


def conclude(beside: Sequence[Beside]) -> Kind:
    """Return what a suspicion is, in the light of the older bundles timed beside tonight's."""
    if any(one.slower for one in beside):
        return "regression"
    return "machine" if any(one.speedups for one in beside) else "step"
