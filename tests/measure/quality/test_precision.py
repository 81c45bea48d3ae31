from importlib import import_module

import numpy as np
import pytest

from pipeline.measure.quality.bootstrap import IndexArray
from pipeline.measure.quality.precision import average_precision, resampled_precision


def drawn(n: int, draws: int = 50) -> IndexArray:
    return np.random.default_rng(2).integers(0, n, size=(draws, n))


def test_it_is_scikit_learns_with_ties_and_without() -> None:
    metrics = import_module("sklearn.metrics")
    random = np.random.default_rng(0)
    labels = random.integers(0, 2, size=200).astype(float)
    for cosines in (random.random(200), random.integers(0, 9, size=200) / 9):
        expected = metrics.average_precision_score(labels, cosines)
        assert average_precision(cosines, labels) == pytest.approx(expected, abs=1e-12)


def test_a_resample_is_what_its_pairs_alone_would_be() -> None:
    random = np.random.default_rng(1)
    labels = random.integers(0, 2, size=60).astype(float)
    sides = (random.random(60), random.integers(0, 9, size=60) / 9)
    rows = drawn(60)
    for side, seen in zip(sides, resampled_precision(sides, labels, rows), strict=True):
        expected = [average_precision(side[row], labels[row]) for row in rows]
        np.testing.assert_allclose(seen, expected, atol=1e-12)


def test_without_a_pair_of_label_one_it_is_nothing() -> None:
    assert average_precision(np.arange(5.0), np.zeros(5)) == 0
