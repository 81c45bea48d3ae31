"""Compute Spearman's correlation, and that of many resamples at once."""

from collections.abc import Sequence

import numpy as np

from pipeline.measure.quality.bootstrap import IndexArray
from pipeline.vectors import DoubleArray


def spearman(cosines: DoubleArray, scores: DoubleArray) -> float:
    """Return the rank correlation, -1 to 1, ties at their mean rank, as STSBenchmark is reported.

    Values that are all equal put nothing in order: 0.
    """
    from scipy.stats import spearmanr

    if (cosines == cosines[0]).all() or (scores == scores[0]).all():
        return 0.0
    return float(spearmanr(cosines, scores).statistic)


def resampled_spearman(
    sides: Sequence[DoubleArray], scores: DoubleArray, drawn: IndexArray
) -> list[DoubleArray]:
    """Return ``spearman(side[row], scores[row])`` of each row of ``drawn``, ``[draws]`` a side.

    A resample holds the same values over and over: its ranks follow from how often each was drawn,
    without sorting it again.
    """
    draws, n = drawn.shape
    repeats = count_drawn(drawn)
    y = _ranks(scores, repeats) - (n + 1) / 2
    weighted = repeats * y
    spread_y = (weighted * y).sum(axis=0)
    correlations = []
    for side in sides:
        x = _ranks(side, repeats) - (n + 1) / 2
        norm = np.sqrt(spread_y * (repeats * x * x).sum(axis=0))
        covariance = (weighted * x).sum(axis=0)
        correlations.append(np.divide(covariance, norm, out=np.zeros(draws), where=norm > 0))
    return correlations


def count_drawn(drawn: IndexArray) -> DoubleArray:
    """Return how often each of the n items is in each row of ``drawn``, ``[n, draws]``."""
    draws, n = drawn.shape
    cells = drawn * draws + np.arange(draws)[:, None]
    return np.bincount(cells.ravel(), minlength=n * draws).reshape(n, draws).astype(np.float64)


def _ranks(values: DoubleArray, repeats: DoubleArray) -> DoubleArray:
    """Return each value's mean rank where it occurs ``repeats`` times, ``[n, draws]``."""
    _, group, sizes = np.unique(values, return_inverse=True, return_counts=True)
    starts = np.cumsum(sizes) - sizes
    counts = np.add.reduceat(repeats[np.argsort(group, kind="stable")], starts, axis=0)
    ranks: DoubleArray = np.cumsum(counts, axis=0) - (counts - 1) / 2
    return ranks[group]
