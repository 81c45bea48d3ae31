import itertools
from collections.abc import Callable, Sequence
from types import SimpleNamespace

import numpy as np
import numpy.typing as npt
import pytest

from pipeline.bench import timing
from pipeline.bench.timing import compare_throughput, measure_latency
from pipeline.tokens import TokenBatch


class Clock:
    """Time that passes only when an encoder says so; it logs who ran."""

    def __init__(self) -> None:
        self.now = 0.0
        self.ran: list[str] = []


class FakeEncoder:
    """An encoder whose n-th call takes ``seconds(n)`` on the clock."""

    device = "cpu"
    max_tokens: int | None = None
    bucketed = False

    def __init__(self, name: str, clock: Clock, seconds: Callable[[int], float]) -> None:
        self.name = name
        self.clock = clock
        self.seconds = seconds
        self.calls = 0

    def encode(self, batch: TokenBatch) -> npt.NDArray[np.float32]:
        self.clock.now += self.seconds(self.calls)
        self.calls += 1
        self.clock.ran.append(self.name)
        return np.zeros((len(batch.input_ids), 2), dtype=np.float32)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    fake = Clock()
    monkeypatch.setattr(timing, "time", SimpleNamespace(perf_counter=lambda: fake.now))
    return fake


def make_batches(*shapes: tuple[int, int]) -> list[TokenBatch]:
    """Make batches of (sentences, tokens), the last token of each sentence being padding."""
    batches = []
    for shape in shapes:
        ids = np.ones(shape, dtype=np.int64)
        mask = ids.copy()
        mask[:, -1] = 0
        batches.append(TokenBatch(input_ids=ids, attention_mask=mask, token_type_ids=0 * ids))
    return batches


def compare(
    reference: FakeEncoder,
    artifact: FakeEncoder,
    batches: Sequence[TokenBatch],
    *,
    min_rounds: int = 5,
    max_rounds: int = 40,
    budget_s: float = 1e9,
) -> timing.Throughput:
    return compare_throughput(
        reference,
        artifact,
        batches,
        min_rounds=min_rounds,
        max_rounds=max_rounds,
        budget_s=budget_s,
    )


def test_twice_as_fast_is_a_speedup_of_two(clock: Clock) -> None:
    batches = make_batches((4, 10), (3, 6))
    seen = compare(
        FakeEncoder("reference", clock, lambda n: 0.5),
        FakeEncoder("artifact", clock, lambda n: 0.25),
        batches,
    )
    assert seen.speedup == pytest.approx(2)
    assert seen.ci95 == pytest.approx((2, 2))
    assert seen.sentences_per_second == pytest.approx(7 / 0.5)
    assert seen.reference_sentences_per_second == pytest.approx(7 / 1.0)
    assert seen.tokens_per_second == pytest.approx((4 * 9 + 3 * 5) / 0.5)


def test_the_ratio_within_a_round_cancels_a_slow_machine(clock: Clock) -> None:
    # Rounds differ by 100 times, both sides alike; one call a round after two calls of warm-up.
    slow = np.random.default_rng(1).uniform(0.1, 10, 100)
    seen = compare(
        FakeEncoder("reference", clock, lambda n: 3 * slow[n]),
        FakeEncoder("artifact", clock, lambda n: slow[n]),
        make_batches((1, 4)),
    )
    assert seen.speedup == pytest.approx(3)
    assert seen.ci95 == pytest.approx((3, 3))


def test_the_interval_contains_the_median_of_noisy_rounds(clock: Clock) -> None:
    noise = np.random.default_rng(2).uniform(0.5, 1.5, 100)
    seen = compare(
        FakeEncoder("reference", clock, lambda n: 2 * noise[n]),
        FakeEncoder("artifact", clock, lambda n: 1.0),
        make_batches((1, 4)),
    )
    assert seen.ci95[0] < seen.speedup < seen.ci95[1]
    assert seen.speedup == pytest.approx(float(np.median(2 * noise[2:42])))
    assert seen.ci95[0] < 2 < seen.ci95[1]


def test_warm_up_is_not_timed(clock: Clock) -> None:
    seen = compare(
        FakeEncoder("reference", clock, lambda n: 1.0),
        FakeEncoder("artifact", clock, lambda n: 100.0 if n < 2 else 1.0),
        make_batches((1, 4)),
    )
    assert seen.speedup == pytest.approx(1)


def test_sides_are_paired_in_rounds_of_random_order(clock: Clock) -> None:
    noise = np.random.default_rng(3).uniform(0.5, 1.5, 100)
    batches = make_batches((1, 4))
    compare(
        FakeEncoder("reference", clock, lambda n: noise[n]),
        FakeEncoder("artifact", clock, lambda n: 1.0),
        batches,
        max_rounds=30,
        min_rounds=30,
    )
    timed = clock.ran[4:]
    rounds = [tuple(timed[i : i + 2]) for i in range(0, len(timed), 2)]
    assert len(rounds) == 30
    assert all(set(pair) == {"reference", "artifact"} for pair in rounds)
    first = [pair[0] for pair in rounds]
    assert 5 <= first.count("reference") <= 25
    assert len(set(itertools.pairwise(first))) == 4  # no fixed alternation


@pytest.mark.parametrize(
    ("noisy", "budget_s", "rounds"),
    [(False, 1e9, 5), (True, 1e9, 12), (True, 0.0, 3), (True, 15.0, 8)],
    ids=["narrow: min_rounds", "wide: max_rounds", "no budget: three rounds", "budget spent"],
)
def test_when_the_rounds_end(noisy: bool, budget_s: float, rounds: int, clock: Clock) -> None:
    # A round takes 2 s on average: 1 s for the artifact, 0.5 or 1.5 s for the reference.
    seen = compare(
        FakeEncoder("reference", clock, lambda n: (0.5, 1.5)[n % 2] if noisy else 1.0),
        FakeEncoder("artifact", clock, lambda n: 1.0),
        make_batches((1, 4)),
        min_rounds=5,
        max_rounds=12,
        budget_s=budget_s,
    )
    assert seen.rounds == rounds


def test_latency_quantiles_in_milliseconds(clock: Clock) -> None:
    # Ten calls of warm-up, then 1 to 100 ms.
    encoder = FakeEncoder("artifact", clock, lambda n: max(0, n - 9) / 1000)
    seen = measure_latency(encoder, make_batches(*[(1, 4)] * 30), runs=100)
    assert seen.n == 100
    assert (seen.p50, seen.p95, seen.p99) == pytest.approx((50.5, 95.05, 99.01))


def test_latency_cycles_through_few_sentences(clock: Clock) -> None:
    encoder = FakeEncoder("artifact", clock, lambda n: 0.001)
    assert measure_latency(encoder, make_batches((1, 4), (1, 5)), runs=7).n == 7
    assert encoder.calls == 2 + 7
