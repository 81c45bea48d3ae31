"""The signed-rank interval: against tables and scipy, and what it promises under noise."""

import itertools

import numpy as np
import pytest
from scipy.stats import wilcoxon

from pipeline.measure.speed.intervals import LEAST_ROUNDS, Speedup, compare
from pipeline.measure.speed.rounds import Pass, RoundLimits, time_rounds
from pipeline.vectors import DoubleArray


def test_six_rounds_give_the_whole_range() -> None:
    ratios = np.array([1.0, 1.1, 1.2, 1.3, 1.4, 1.5])
    seen = compare(ratios, np.ones(6))
    assert seen.ci95 == pytest.approx((1.0, 1.5))


@pytest.mark.parametrize("n", [0, 1, LEAST_ROUNDS - 1])
def test_fewer_rounds_have_no_interval(n: int) -> None:
    with pytest.raises(ValueError, match="needs 6"):
        compare(np.ones(n), np.ones(n))


# Two-sided 5 % points of Wilcoxon's signed-rank sum, from the tables.
@pytest.mark.parametrize(("n", "point"), [(6, 0), (8, 3), (10, 8), (15, 25), (20, 52), (30, 137)])
def test_interval_ends_are_the_pair_means_the_tables_name(n: int, point: int) -> None:
    ratios = np.exp(np.random.default_rng(n).normal(0.3, 0.1, n))
    logs = np.log(ratios)
    pairs = [(a + b) / 2 for a, b in itertools.combinations_with_replacement(logs, 2)]
    ordered = np.exp(np.sort(pairs))
    seen = compare(ratios, np.ones(n))
    assert seen.ci95 == pytest.approx((ordered[point], ordered[-1 - point]))
    assert seen.median == pytest.approx(float(np.exp(np.median(pairs))))


def test_the_interval_is_what_the_exact_test_does_not_reject() -> None:
    ratios = np.exp(np.random.default_rng(0).normal(0.2, 0.1, 12))
    low, high = compare(ratios, np.ones(12)).ci95
    for inside, outside in ((low * 1.0001, low / 1.0001), (high / 1.0001, high * 1.0001)):
        kept, rejected = (
            wilcoxon(np.log(ratios) - np.log(at), method="exact").pvalue for at in (inside, outside)
        )
        assert kept > 0.05 >= rejected


def test_the_inverse_ratio_has_the_inverse_interval() -> None:
    random = np.random.default_rng(1)
    a, b = np.exp(random.normal(0, 0.2, (2, 11)))
    there, back = compare(a, b), compare(b, a)
    assert back.median == pytest.approx(1 / there.median)
    assert back.ci95 == pytest.approx((1 / there.ci95[1], 1 / there.ci95[0]))


def test_one_wild_round_moves_little() -> None:
    ratios = np.full(12, 2.0)
    ratios[5] = 50.0
    seen = compare(ratios, np.ones(12))
    assert seen.median == pytest.approx(2)
    assert seen.ci95[0] == pytest.approx(2)


@pytest.mark.parametrize(
    ("ci95", "verdict"),
    [
        ((1.02, 1.5), "faster"),
        ((1.005, 1.5), "no difference"),
        ((0.7, 1.5), "no difference"),
        ((0.7, 0.995), "no difference"),
        ((0.7, 0.98), "slower"),
    ],
)
def test_verdict_needs_the_whole_interval(ci95: tuple[float, float], verdict: str) -> None:
    assert Speedup(median=1.0, ci95=ci95).verdict == verdict


# The promise: equal sides are told apart in at most 1 of 20 reruns, 5 % in at least 15 of 20.


def busy_machine(n: int, random: np.random.Generator) -> DoubleArray:
    """Slow-downs of ``n`` passes one after another: drift, heavy tails, spells of other load."""
    drift = np.zeros(n)
    for i in range(1, n):
        drift[i] = 0.9 * drift[i - 1] + random.normal(0, 0.02)
    busy = np.zeros(n)
    for i in range(1, n):
        busy[i] = random.random() > 0.2 if busy[i - 1] else random.random() < 0.05
    tail = 0.01 * np.abs(random.standard_t(2, n))
    return np.exp(drift + tail + busy * random.uniform(0.1, 0.7, n))


def rerun(seed: int, monkeypatch: pytest.MonkeyPatch, *, slower: float) -> Speedup:
    """Measure two sides on the busy machine with the product's settings; one is ``slower``."""
    now = [0.0]
    monkeypatch.setattr("time.perf_counter", lambda: now[0])
    slowdown = iter(busy_machine(10_000, np.random.default_rng(seed)))

    def side(seconds: float) -> Pass:
        def work() -> None:
            now[0] += seconds * next(slowdown)

        def wake() -> None:
            now[0] += 0.06

        return Pass(work=work, wake=wake)

    limits = RoundLimits(min_rounds=8, max_rounds=60, narrow=0.04, budget_s=40.0)
    times = time_rounds([side(0.5), side(0.5 * slower)], limits, seed=seed)
    return compare(times[:, 0], times[:, 1])


@pytest.mark.slow
def test_an_artifact_compared_with_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = [rerun(seed, monkeypatch, slower=1.0) for seed in range(200)]
    assert sum(speedup.verdict != "no difference" for speedup in seen) <= 10
    covered = sum(low <= 1 <= high for low, high in (speedup.ci95 for speedup in seen))
    assert covered >= 180


@pytest.mark.slow
def test_an_artifact_five_percent_slower(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = [rerun(seed, monkeypatch, slower=1.05) for seed in range(200)]
    assert sum(speedup.verdict == "slower" for speedup in seen) >= 150
    assert not any(speedup.verdict == "faster" for speedup in seen)
