import numpy as np
import pytest
from scipy.stats import spearmanr

from pipeline.measure.quality.correlation import resampled_spearman, spearman


def test_values_that_are_all_equal_put_nothing_in_order() -> None:
    scores = np.array([1.0, 2.0, 3.0])
    assert spearman(np.full(3, 0.5), scores) == 0
    assert spearman(scores, np.full(3, 0.5)) == 0


def test_ties_take_their_mean_rank() -> None:
    # Ranks 1.5, 1.5, 3 and 1, 2, 3: covariance 1.5, variances 1.5 and 2.
    ties = spearman(np.array([0.1, 0.1, 0.9]), np.array([1.0, 2.0, 3.0]))
    assert ties == pytest.approx(1.5 / np.sqrt(1.5 * 2))


@pytest.mark.parametrize("levels", [4, 1000])
def test_a_resample_is_correlated_as_scipy_does(levels: int) -> None:
    random = np.random.default_rng(5)
    scores = random.integers(0, 6, size=60) / 2
    sides = [np.round(scores + random.normal(size=60) * noise, 9) for noise in (1, 3)]
    sides = [np.floor(side * levels) for side in sides]
    drawn = random.integers(0, 60, size=(25, 60))
    for side, seen in zip(sides, resampled_spearman(sides, scores, drawn), strict=True):
        expected = [spearmanr(side[row], scores[row]).statistic for row in drawn]
        np.testing.assert_allclose(seen, expected, atol=1e-12)


def test_a_resample_of_one_value_is_zero_not_nan() -> None:
    values = np.array([1.0, 2.0, 3.0])
    (seen,) = resampled_spearman([values], values, np.array([[1, 1, 1], [0, 1, 2]]))
    assert seen.tolist() == [0.0, pytest.approx(1)]
