"""Paired random rounds, and what they say: ratios within a round and their interval."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.stats import quantile_test

from benchmarks.cpu_speed.workers import SideError

Times = dict[str, dict[str, list[list[float]]]]
"""Seconds by side, shape and round; a round holds one time a pass."""

Pass = Callable[[str], list[float]]
"""Encodes the texts of the shape named and returns the seconds of each pass."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ratio:
    """How many times faster than the reference: median over rounds, and its 95 % interval.

    The interval is None where there are too few rounds for one.
    """

    median: float
    ci95: tuple[float, float] | None


def run_rounds(
    sides: Mapping[str, Pass],
    shapes: Sequence[str],
    rounds: int,
    *,
    failed: Callable[[str, SideError], None],
    seed: int = 0,
) -> Times:
    """Time every side once a shape and round, one at a time, in an order drawn anew.

    A side that fails is told to ``failed``, left out from then on, and has no times.
    """
    random = np.random.default_rng(seed)
    times: Times = {name: {shape: [] for shape in shapes} for name in sides}
    for _ in range(rounds):
        for shape in shapes:
            for name in random.permutation(list(times)).tolist():
                try:
                    times[name][shape].append(sides[name](shape))
                except SideError as error:
                    del times[name]
                    failed(name, error)
    return times


def ratio(reference: npt.ArrayLike, side: npt.ArrayLike) -> Ratio:
    """Compare the seconds of the same rounds.

    The interval is the sign test's, from order statistics of the rounds' ratios: it assumes
    nothing of their distribution and needs 6 rounds (``scipy.stats.quantile_test``).
    """
    ratios = np.asarray(reference) / np.asarray(side)
    interval: Any = quantile_test(ratios, p=0.5).confidence_interval(0.95)  # a float to the stubs
    ends = (float(interval.low), float(interval.high))
    return Ratio(median=float(np.median(ratios)), ci95=None if np.isnan(ends[0]) else ends)


def texts_for(pilot_s: Sequence[float], texts: int, least_s: float, batch: int) -> int:
    """Return how many texts, in whole batches, keep the fastest side busy for ``least_s``.

    ``pilot_s`` are the seconds that each side took for ``texts`` texts.
    """
    return max(1, int(np.ceil(texts * least_s / min(pilot_s) / batch))) * batch
