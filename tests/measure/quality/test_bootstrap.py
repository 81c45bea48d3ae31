import numpy as np
import pytest

from pipeline.measure.quality import bootstrap
from pipeline.measure.quality.bootstrap import interval, mean_interval
from pipeline.vectors import DoubleArray


def test_equal_values_have_an_interval_of_no_width() -> None:
    assert mean_interval(np.full(30, 0.25)) == (0.25, 0.25)


def test_interval_of_a_mean_is_about_two_standard_errors_wide() -> None:
    values = np.random.default_rng(3).normal(5, 2, size=400)
    low, high = mean_interval(values)
    assert low < values.mean() < high
    assert high - low == pytest.approx(2 * 1.96 * values.std() / 20, rel=0.1)


@pytest.mark.slow
def test_the_mean_of_skewed_values_is_covered_as_often_as_promised() -> None:
    random = np.random.default_rng(7)
    covered = 0
    for _ in range(200):
        low, high = mean_interval(random.gamma(2.0, size=100))
        covered += low <= 2.0 <= high
    assert 0.9 <= covered / 200 <= 0.98


def test_the_same_values_give_the_same_interval_and_another_seed_another() -> None:
    values = np.random.default_rng(1).normal(size=50)
    assert mean_interval(values) == mean_interval(values)
    other = interval(lambda drawn: values[drawn].mean(axis=1), 50, seed=1)
    assert other != mean_interval(values)


@pytest.mark.parametrize("block", [1, 90, 1000])
def test_blocks_do_not_change_what_is_drawn_nor_how_often(
    block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = np.random.default_rng(1).normal(size=30)
    whole = mean_interval(values)
    monkeypatch.setattr(bootstrap, "_BLOCK", block)
    rows = []

    def statistic(drawn: bootstrap.IndexArray) -> DoubleArray:
        rows.append(drawn.shape)
        return np.asarray(values[drawn].mean(axis=1))

    assert interval(statistic, 30) == pytest.approx(whole)
    assert sum(n for n, _ in rows) == bootstrap.DRAWS >= 1000
    assert {size for _, size in rows} == {30}
    assert max(n for n, _ in rows) == max(1, block // 30)
