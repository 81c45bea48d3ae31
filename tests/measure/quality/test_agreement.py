from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pytest

from pipeline.measure.quality import agreement as agreement_module
from pipeline.measure.quality.agreement import (
    agreement,
    check_vectors,
    neighbor_overlap,
    p1_interval,
)
from pipeline.vectors import row_cosines

FloatArray = npt.NDArray[np.float32]


def vectors(*rows: Sequence[float]) -> FloatArray:
    return np.array(rows, dtype=np.float32)


def on_a_circle(n: int) -> FloatArray:
    """Return ``n`` unit vectors with growing gaps, so that no two neighbours are equally near."""
    angle = np.cumsum(np.linspace(0.01, 0.05, n))
    return np.stack([np.cos(angle), np.sin(angle)], axis=1).astype(np.float32)


def test_cosines_of_hand_picked_angles() -> None:
    a = vectors([1, 0], [1, 0], [1, 0], [2, 0], [3, 4])
    b = vectors([1, 0], [0, 1], [-1, 0], [5, 5], [4, 3])
    np.testing.assert_allclose(row_cosines(a, b), [1, 0, -1, 0.5**0.5, 0.96], atol=1e-7)


def test_two_zero_vectors_agree_and_one_does_not() -> None:
    a = vectors([0, 0], [0, 0], [1, 0])
    b = vectors([0, 0], [1, 0], [0, 0])
    assert row_cosines(a, b).tolist() == [1, 0, 0]


def test_nan_stays_nan_in_its_row_only() -> None:
    cosines = row_cosines(vectors([np.nan, 1], [1, 1]), vectors([1, 1], [1, 1]))
    assert np.isnan(cosines[0])
    assert cosines[1] == pytest.approx(1)


def test_very_small_and_very_large_vectors_keep_their_cosine() -> None:
    a = vectors([1e-30, 0], [1e30, 0])
    np.testing.assert_allclose(row_cosines(a, vectors([1e-30, 1e-30], [1e30, 1e30])), 0.5**0.5)


def test_neighbors_overlap_fully_with_themselves() -> None:
    assert neighbor_overlap(on_a_circle(40), on_a_circle(40), [10]) == {10: 1.0}


def test_neighbors_do_not_depend_on_vector_length() -> None:
    a = on_a_circle(40)
    longer = a * np.linspace(1, 9, 40, dtype=np.float32)[:, None]
    assert neighbor_overlap(a, longer, [10]) == {10: 1.0}


def test_neighbor_overlap_worked_by_hand() -> None:
    # Nearest two of each point on a line of angles; in b, points 1 and 3 have changed places.
    angles = np.array([0.0, 0.1, 0.25, 0.45, 1.0])
    swapped = angles[[0, 3, 2, 1, 4]]
    a, b = (np.stack([np.cos(x), np.sin(x)], axis=1).astype(np.float32) for x in (angles, swapped))
    # a: 0:{1,2} 1:{0,2} 2:{1,3} 3:{2,1} 4:{3,2}    b: 0:{3,2} 1:{2,3} 2:{3,1} 3:{0,2} 4:{1,2}
    assert neighbor_overlap(a, b, [2]) == {2: pytest.approx((0.5 + 0.5 + 1 + 0.5 + 0.5) / 5)}


def test_agreement_summarizes_the_cosines() -> None:
    a = vectors(*[[1, 0]] * 100)
    b = vectors(*[[1, 0]] * 99, [0, 1])
    seen = agreement(a, b)
    assert (seen.n, seen.min) == (100, 0.0)
    assert seen.mean == pytest.approx(0.99)
    assert seen.p1 == pytest.approx(np.quantile([0.0] + [1.0] * 99, 0.01))


@pytest.mark.parametrize(
    ("n", "known"),
    [(2, []), (3, [1]), (11, [1]), (12, [1, 10]), (101, [1, 10]), (102, [1, 10, 100])],
)
def test_neighbors_need_two_sentences_more_than_are_counted(n: int, known: list[int]) -> None:
    points = on_a_circle(n)
    overlap = agreement(points, points).neighbor_overlap
    assert overlap == {k: 1.0 if k in known else None for k in (1, 10, 100)}


def test_neighbors_in_blocks_of_rows_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(4)
    a = random.normal(size=(50, 6)).astype(np.float32)
    b = a + (random.normal(size=(50, 6)) / 3).astype(np.float32)
    whole = neighbor_overlap(a, b, [1, 10])
    monkeypatch.setattr(agreement_module, "_ROWS", 7)
    assert neighbor_overlap(a, b, [1, 10]) == whole
    assert 0.2 < (whole[1] or 0) < 0.95


def test_the_interval_of_the_mean_surrounds_it_and_is_the_bootstrap_s() -> None:
    random = np.random.default_rng(2)
    a = random.normal(size=(400, 8)).astype(np.float32)
    b = a + random.normal(size=(400, 8)).astype(np.float32)
    seen = agreement(a, b)
    low, high = seen.mean_ci95
    assert low < seen.mean < high
    deviation = row_cosines(a, b).std()
    assert high - low == pytest.approx(2 * 1.96 * deviation / 20, rel=0.1)
    assert seen.p1_ci95 is not None
    assert seen.min <= seen.p1_ci95[0] <= seen.p1 <= seen.p1_ci95[1] < seen.mean


@pytest.mark.parametrize(("n", "carried"), [(367, False), (368, True)])
def test_p1_has_an_interval_only_where_the_sample_carries_one(n: int, carried: bool) -> None:
    # 0.99 ** 368 < 0.025 < 0.99 ** 367: fewer may all lie above the true percentile.
    assert (p1_interval(np.linspace(0.9, 1, n)) is not None) == carried


@pytest.mark.slow
def test_p1_is_covered_as_often_as_promised() -> None:
    random = np.random.default_rng(8)
    true = 1 - np.exp(0.5 * 2.3263)  # 1 - a log-normal loss, at its 99th percentile
    covered = 0
    for _ in range(200):
        found = p1_interval(1 - np.exp(0.5 * random.normal(size=500)))
        assert found is not None
        covered += found[0] <= true <= found[1]
    assert covered / 200 >= 0.94


def test_rows_that_are_no_vectors_are_counted() -> None:
    a = vectors([1, 0], [0, 0], [3, 4], [1, 1], [0, 2])
    b = vectors([0, 0], [0, 0], [0.5, 0], [np.nan, 1], [np.inf, 0])
    checks = check_vectors(a, b)
    assert (checks.nan, checks.zero) == (2, 1)
    assert checks.norm == (0, 0.5)
    assert checks.reference_norm == (0, 5)
    assert check_vectors(a[:3], b[:3]).norm == (0, 0.5)


def test_a_row_of_nan_has_cosine_0_and_is_counted() -> None:
    a = on_a_circle(5)
    b = a.copy()
    b[2] = np.nan
    seen = agreement(a, b)
    assert (seen.checks.nan, seen.checks.zero) == (1, 0)
    assert seen.mean == pytest.approx(0.8)
    assert seen.min == 0
