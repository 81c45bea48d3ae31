"""Where a line steps: PELT, the exact least-cost segmentation, for accuracy and speed alike.

Killick, Fearnhead, Eckley: Optimal detection of changepoints with a linear computational cost, JASA
107 (2012); the search is that of the ``ruptures`` package. A segment costs the sum of the distances
from its median in units of the night-to-night noise, so that one wild night is no step.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]

PENALTY = 2.5
"""A step costs this times log(n): `benchmarks/nights.py` counts what it finds where nothing is."""
LEAST_SEGMENT = 3
"""Nights that a level has to last to be one."""


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

    line = np.asarray(values, dtype=np.float64)
    if len(line) < 2 * LEAST_SEGMENT:
        return ()
    unit = max(noise(line), least / 4)
    search = ruptures.Pelt(model="l1", min_size=LEAST_SEGMENT, jump=1).fit(line / unit)
    ends = [0, *map(int, search.predict(pen=PENALTY * np.log(len(line))))]
    levels = [float(np.median(line[a:b])) for a, b in zip(ends, ends[1:], strict=False)]
    return tuple(
        Step(index=ends[i], before=levels[i - 1], after=levels[i])
        for i in range(1, len(levels))
        if abs(levels[i] - levels[i - 1]) >= least
    )


def noise(values: FloatArray) -> float:
    """Return the standard deviation of one night's noise, from differences of successive nights.

    Their median does not see steps, and sees a slow drift as the little it is a night. For normal
    noise the median of |difference| is 0.6745 times sqrt(2) standard deviations.
    """
    if len(values) < 2:
        return 0.0
    return float(np.median(np.abs(np.diff(values))) / (0.6745 * np.sqrt(2)))
