"""Find where a line steps: PELT, the exact least-squares segmentation, for accuracy and speed.

Killick, Fearnhead, Eckley: Optimal detection of changepoints with a linear computational cost, JASA
107 (2012); the search is that of the ``ruptures`` package. Values are in units of the
night-to-night noise, and cut where they are far from their neighbours, so that one wild night is no
step.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from pipeline.vectors import DoubleArray

PENALTY = 5.0
"""A step costs this times log(n) units of noise squared; ``docs/history.md`` says what it finds."""
_NEIGHBOURS, _FAR = 5, 2.5
"""A value further than this many units from the median of five nights is brought that near."""
LEAST_SEGMENT = 2
"""Nights that a level has to last to be one."""
LEAST_NIGHTS = 6
"""Shorter lines have no steps."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """The line's level is ``after`` from night ``index`` on, and was ``before``."""

    index: int
    before: float
    after: float


def find_steps(values: Sequence[float], *, least: float) -> tuple[Step, ...]:
    """Return the steps of a series, in order; levels nearer than ``least`` are one.

    ``values`` has a number a night, those not measured left out.
    """
    import ruptures
    from scipy.ndimage import median_filter

    line = np.asarray(values, dtype=np.float64)
    if len(line) < LEAST_NIGHTS:
        return ()
    unit = max(noise(line), least / 4)
    near = median_filter(line, _NEIGHBOURS, mode="reflect")
    kept = np.clip(line, near - _FAR * unit, near + _FAR * unit)
    search = ruptures.KernelCPD(kernel="linear", min_size=LEAST_SEGMENT).fit(kept[:, None] / unit)
    ends = [0, *map(int, search.predict(pen=PENALTY * np.log(len(line))))]
    levels = [float(np.median(line[a:b])) for a, b in pairwise(ends)]
    return tuple(
        Step(index=ends[i], before=levels[i - 1], after=levels[i])
        for i in range(1, len(levels))
        if abs(levels[i] - levels[i - 1]) >= least
    )


def noise(values: DoubleArray) -> float:
    """Return the standard deviation of one night's noise, from differences of successive nights.

    Their median does not see steps, and sees a slow drift as the little it is a night. For normal
    noise the median of |difference| is 0.6745 times sqrt(2) standard deviations.
    """
    if len(values) < 2:
        return 0.0
    return float(np.median(np.abs(np.diff(values))) / (0.6745 * np.sqrt(2)))
