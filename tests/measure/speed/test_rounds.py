"""Rounds on a simulated clock: pairing, order, warm-up, and when they end."""

import itertools

import numpy as np
import pytest
from clock import Clock, FakeEncoder, install, make_batches

from pipeline.measure.speed.intervals import compare
from pipeline.measure.speed.rounds import RoundLimits, encoder_pass, time_rounds
from pipeline.measure.speed.throughput import text_throughput, throughput
from pipeline.text.tokens import TokenBatch
from pipeline.vectors import DoubleArray


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return install(monkeypatch)


def run(
    encoders: list[FakeEncoder],
    batches: list[TokenBatch],
    *,
    min_rounds: int = 6,
    max_rounds: int = 40,
    budget_s: float = 1e9,
) -> DoubleArray:
    limits = RoundLimits(
        min_rounds=min_rounds, max_rounds=max_rounds, narrow=0.05, budget_s=budget_s
    )
    return time_rounds([encoder_pass(e, batches) for e in encoders], limits, seed=0)


def test_twice_as_fast_is_a_speedup_of_two(clock: Clock) -> None:
    batches = make_batches((4, 10), (3, 6))
    times = run(
        [
            FakeEncoder("reference", clock, lambda n: 0.5),
            FakeEncoder("artifact", clock, lambda n: 0.25),
        ],
        batches,
    )
    seen = throughput(times, 1, batches)
    assert seen.speedup.median == pytest.approx(2)
    assert seen.speedup.ci95 == pytest.approx((2, 2))
    assert seen.sentences_per_second == pytest.approx(7 / 0.5)
    assert seen.reference_sentences_per_second == pytest.approx(7 / 1.0)
    assert seen.tokens_per_second == pytest.approx((4 * 9 + 3 * 5) / 0.5)
    assert seen.texts == 7
    assert seen.mean_tokens == pytest.approx((4 * 9 + 3 * 5) / 7)
    assert seen.rounds == len(times) == 6
    with_text = text_throughput(times, 1, 7)
    assert with_text.sentences_per_second == seen.sentences_per_second
    assert with_text.reference_sentences_per_second == seen.reference_sentences_per_second
    assert with_text.speedup == seen.speedup


def test_the_ratio_within_a_round_cancels_a_slow_machine(clock: Clock) -> None:
    # Rounds differ by 100 times, all sides alike; two calls a round, the second one is timed.
    slow = np.random.default_rng(1).uniform(0.1, 10, 100)
    times = run(
        [
            FakeEncoder("reference", clock, lambda n: 6 * slow[n]),
            FakeEncoder("artifact", clock, lambda n: 2 * slow[n]),
            FakeEncoder("baseline", clock, lambda n: 3 * slow[n]),
        ],
        make_batches((1, 4)),
    )
    assert compare(times[:, 0], times[:, 1]).ci95 == pytest.approx((3, 3))
    assert compare(times[:, 2], times[:, 1]).ci95 == pytest.approx((1.5, 1.5))


def test_neither_warm_up_nor_waking_is_timed(clock: Clock) -> None:
    # The first pass is a warm-up; in a round the first call of two wakes the encoder.
    encoder = FakeEncoder("artifact", clock, lambda n: 1.0 if n > 0 and n % 2 == 0 else 100.0)
    times = run([FakeEncoder("reference", clock, lambda n: 1.0), encoder], make_batches((1, 4)))
    assert times.tolist() == [[1.0, 1.0]] * 6
    assert encoder.calls == 1 + 2 * 6


def test_all_sides_are_in_every_round_in_random_order(clock: Clock) -> None:
    names = ("reference", "artifact", "baseline")
    run(
        [FakeEncoder(name, clock, lambda n: 1.0 + 0.5 * (n % 3)) for name in names],
        make_batches((1, 4)),
        max_rounds=60,
        min_rounds=60,
    )
    timed = clock.ran[len(names) :][1::2]
    rounds = [tuple(timed[i : i + 3]) for i in range(0, len(timed), 3)]
    assert len(rounds) == 60
    assert set(rounds) == set(itertools.permutations(names))
    assert len(set(itertools.pairwise(rounds))) > 12  # no fixed cycle


@pytest.mark.parametrize(
    ("noisy", "budget_s", "rounds"),
    [
        (False, 1e9, 7),
        (True, 1e9, 12),
        (True, 0.0, 6),
        (True, 42.0, 10),
        (True, 41.0, 9),
    ],
    ids=["narrow: min_rounds", "wide: max_rounds", "no budget: least", "spent", "no time for more"],
)
def test_when_the_rounds_end(noisy: bool, budget_s: float, rounds: int, clock: Clock) -> None:
    # The warm-up takes 2 s (1.5 s where noisy); a round, with waking, 4 s.
    times = run(
        [
            FakeEncoder("reference", clock, lambda n: (0.5, 1.5)[n // 2 % 2] if noisy else 1.0),
            FakeEncoder("artifact", clock, lambda n: 1.0),
        ],
        make_batches((1, 4)),
        min_rounds=7,
        max_rounds=12,
        budget_s=budget_s,
    )
    assert len(times) == rounds


def test_every_side_has_to_be_narrow(clock: Clock) -> None:
    noise = np.random.default_rng(3).uniform(0.5, 1.5, 1000)
    sides = [
        FakeEncoder("reference", clock, lambda n: 1.0),
        FakeEncoder("artifact", clock, lambda n: 1.0),
        FakeEncoder("baseline", clock, lambda n: noise[n]),
    ]
    assert len(run(sides, make_batches((1, 4)), max_rounds=15)) == 15
    assert len(run(sides[:2], make_batches((1, 4)), max_rounds=15)) == 6
