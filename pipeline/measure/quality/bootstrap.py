"""Compute bootstrap intervals: how far a figure moves when the texts are drawn anew.

Indices are drawn with replacement and handed to the statistic a block at a time, so that a
statistic of two sides at the same indices is a paired one (Efron and Tibshirani, An Introduction
to the Bootstrap, 1993, chapter 13).
"""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from pipeline.vectors import DoubleArray

IndexArray = npt.NDArray[np.intp]
Interval = tuple[float, float]

DRAWS = 2000
_BLOCK = 2**21
"""At most this many indices at once: a statistic may hold a few such arrays in memory."""


def interval(statistic: Callable[[IndexArray], DoubleArray], n: int, *, seed: int = 0) -> Interval:
    """Return the 95% interval of a statistic of ``n`` items, from ``DRAWS`` resamples.

    ``statistic`` takes indices ``[draws, n]`` and returns one value a row; the same seed draws the
    same indices.
    """
    random = np.random.default_rng(seed)
    rows = max(1, _BLOCK // n)
    values = np.concatenate(
        [
            statistic(random.integers(0, n, size=(min(rows, DRAWS - start), n)))
            for start in range(0, DRAWS, rows)
        ]
    )
    low, high = np.quantile(values, [0.025, 0.975])
    return float(low), float(high)


def mean_interval(values: DoubleArray) -> Interval:
    """Return the 95% interval of the mean of ``values``, ``[n]``."""
    return interval(lambda drawn: values[drawn].mean(axis=1), len(values))
