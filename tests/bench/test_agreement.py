from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pytest

from pipeline.bench.agreement import agreement, neighbor_overlap, row_cosines

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
    assert neighbor_overlap(on_a_circle(40), on_a_circle(40), 10) == 1.0


def test_neighbors_do_not_depend_on_vector_length() -> None:
    a = on_a_circle(40)
    longer = a * np.linspace(1, 9, 40, dtype=np.float32)[:, None]
    assert neighbor_overlap(a, longer, 10) == 1.0


def test_neighbor_overlap_worked_by_hand() -> None:
    # Nearest two of each point on a line of angles; in b, points 1 and 3 have changed places.
    angles = np.array([0.0, 0.1, 0.25, 0.45, 1.0])
    swapped = angles[[0, 3, 2, 1, 4]]
    a, b = (np.stack([np.cos(x), np.sin(x)], axis=1).astype(np.float32) for x in (angles, swapped))
    # a: 0:{1,2} 1:{0,2} 2:{1,3} 3:{2,1} 4:{3,2}    b: 0:{3,2} 1:{2,3} 2:{3,1} 3:{0,2} 4:{1,2}
    assert neighbor_overlap(a, b, 2) == pytest.approx((0.5 + 0.5 + 1 + 0.5 + 0.5) / 5)


def test_agreement_summarizes_the_cosines() -> None:
    a = vectors(*[[1, 0]] * 100)
    b = vectors(*[[1, 0]] * 99, [0, 1])
    seen = agreement(a, b)
    assert (seen.n, seen.min) == (100, 0.0)
    assert seen.mean == pytest.approx(0.99)
    assert seen.p1 == pytest.approx(np.quantile([0.0] + [1.0] * 99, 0.01))


@pytest.mark.parametrize(("n", "expected"), [(11, None), (12, 1.0)])
def test_neighbor_overlap_needs_twelve_sentences(n: int, expected: float | None) -> None:
    points = on_a_circle(n)
    assert agreement(points, points).neighbor_overlap_at_10 == expected


def test_agreement_with_nan_is_nan_and_passes_no_threshold() -> None:
    a = on_a_circle(5)
    b = a.copy()
    b[2] = np.nan
    seen = agreement(a, b)
    assert np.isnan(seen.mean)
    assert not seen.mean >= -1
