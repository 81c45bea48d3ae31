"""Latency on a simulated clock: percentiles only where the runs carry them."""

import pytest
from clock import Clock, FakeEncoder, install, make_batches

from pipeline.measure.speed.latency import measure_latencies


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return install(monkeypatch)


def test_quantiles_in_milliseconds(clock: Clock) -> None:
    # 20 calls of warm-up; then each turn of 20 begins with one call that does not count.
    counted = iter(range(1, 501))
    encoder = FakeEncoder(
        "artifact", clock, lambda n: 0.0 if n < 20 or (n - 20) % 21 == 0 else next(counted) / 1000
    )
    (seen,) = measure_latencies([encoder], make_batches(*[(1, 4)] * 30), runs=500, budget_s=1e9)
    assert seen.n == 500
    assert seen.p50 == pytest.approx(250.5)
    assert seen.p95 == pytest.approx(475.05)
    assert seen.p99 == pytest.approx(495.01)


@pytest.mark.parametrize(
    ("runs", "p95", "p99"),
    [(1, False, False), (99, False, False), (100, True, False), (499, True, False)],
)
def test_few_runs_carry_no_far_percentiles(runs: int, p95: bool, p99: bool, clock: Clock) -> None:
    encoder = FakeEncoder("artifact", clock, lambda n: 0.001)
    (seen,) = measure_latencies([encoder], make_batches((1, 4)), runs=runs, budget_s=1e9)
    assert seen.n == runs
    assert seen.p50 == pytest.approx(1)
    assert (seen.p95 is not None, seen.p99 is not None) == (p95, p99)


def test_a_spent_budget_leaves_one_turn_each(clock: Clock) -> None:
    encoders = [FakeEncoder(name, clock, lambda n: 1.0) for name in ("reference", "artifact")]
    seen = measure_latencies(encoders, make_batches((1, 4)), runs=500, budget_s=0)
    assert [latency.n for latency in seen] == [20, 20]


def test_encoders_take_turns_in_random_order(clock: Clock) -> None:
    encoders = [FakeEncoder(name, clock, lambda n: 0.001) for name in ("a", "b")]
    measure_latencies(encoders, make_batches((1, 4)), runs=400, budget_s=1e9, seed=0)
    turns = clock.ran[2::21]
    assert sorted(turns) == ["a"] * 20 + ["b"] * 20
    assert 3 <= turns[::2].count("a") <= 17
