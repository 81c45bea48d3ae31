"""Compute average precision of pairs ranked by cosine, and that of many resamples at once."""

from collections.abc import Sequence

import numpy as np

from pipeline.measure.quality.bootstrap import IndexArray
from pipeline.measure.quality.correlation import count_drawn
from pipeline.vectors import DoubleArray


def average_precision(cosines: DoubleArray, labels: DoubleArray) -> float:
    """Return the mean precision at each pair of label 1, 0 to 1, equal cosines taken together.

    As scikit-learn's ``average_precision_score``, by which mteb judges pair classification.
    """
    return float(_precision(cosines, labels, np.ones((len(cosines), 1)))[0])


def resampled_precision(
    sides: Sequence[DoubleArray], labels: DoubleArray, drawn: IndexArray
) -> list[DoubleArray]:
    """Return ``average_precision(side[row], labels[row])`` of each row, ``[draws]`` a side."""
    repeats = count_drawn(drawn)
    return [_precision(side, labels, repeats) for side in sides]


def _precision(cosines: DoubleArray, labels: DoubleArray, repeats: DoubleArray) -> DoubleArray:
    """Weight each pair by how often it was drawn, ``[n, draws]``; without a label 1 it is 0."""
    order = np.argsort(-cosines, kind="stable")
    last_of_equals = np.flatnonzero(np.append(np.diff(cosines[order]) != 0, True))
    right = np.cumsum(repeats[order] * labels[order, None], axis=0)[last_of_equals]
    all_ranked = np.cumsum(repeats[order], axis=0)[last_of_equals]
    gained = np.diff(right, axis=0, prepend=0)
    precision = np.divide(right, all_ranked, out=np.zeros_like(right), where=all_ranked > 0)
    total = right[-1]
    found = (gained * precision).sum(axis=0)
    result: DoubleArray = np.divide(found, total, out=np.zeros_like(found), where=total > 0)
    return result
