"""Compute how much faster one side is than another, and how sure that is, from paired rounds.

The order within a round is drawn at random, so the log-ratios of two equal sides are symmetric
about zero whatever the machine does meanwhile: the exact signed-rank interval (Hollander, Wolfe,
Chicken: Nonparametric Statistical Methods, 3.2 and 3.4) holds from six rounds on, where a bootstrap
of so few does not. Measured in ``docs/measuring.md``.
"""

import functools
from dataclasses import dataclass

import numpy as np

from pipeline.vectors import DoubleArray

LEAST_ROUNDS = 6
"""With fewer rounds no signed-rank interval has 95 %: all of five signs agree by chance in 6 %."""

MARGIN = 0.01
"""Two sides this near to each other are called equal: less is no reason to choose one of them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Speedup:
    """How many times faster a side is; ``ci95`` is the interval of ``median``.

    ``median`` is the Hodges-Lehmann estimate: the median of the geometric means of all pairs of
    rounds' ratios.
    """

    median: float
    ci95: tuple[float, float]

    @property
    def verdict(self) -> str:
        """``faster``, ``slower`` or, unless all of the interval says so, ``no difference``."""
        low, high = self.ci95
        if low > 1 + MARGIN:
            return "faster"
        return "slower" if high < 1 / (1 + MARGIN) else "no difference"

    @property
    def width(self) -> float:
        """The interval's width as a share of the median."""
        return (self.ci95[1] - self.ci95[0]) / self.median


def compare(reference_s: DoubleArray, side_s: DoubleArray) -> Speedup:
    """Return how many times faster ``side_s`` is, from seconds of the same rounds, ``[rounds]``.

    Raises:
        ValueError: fewer rounds than a 95 % interval needs.
    """
    n = len(side_s)
    if n < LEAST_ROUNDS:
        raise ValueError(f"{n} rounds: a 95 % interval needs {LEAST_ROUNDS}")
    ratios = np.log(reference_s) - np.log(side_s)
    i, j = np.triu_indices(n)
    means = np.sort((ratios[i] + ratios[j]) / 2)
    rank = _interval_rank(n)
    low, high = np.exp(means[[rank, -1 - rank]])
    return Speedup(median=float(np.exp(np.median(means))), ci95=(float(low), float(high)))


@functools.cache
def _interval_rank(n: int, tail: float = 0.025) -> int:
    """Return how many of the sorted pair means lie below the interval of ``n`` rounds.

    It is the largest signed-rank sum that chance reaches, or stays below, no oftener than ``tail``.
    """
    ways = np.zeros(n * (n + 1) // 2 + 1)
    ways[0] = 1
    for rank in range(1, n + 1):
        ways[rank:] += ways[:-rank].copy()
    return int(np.searchsorted(np.cumsum(ways / 2.0**n), tail, side="right")) - 1
