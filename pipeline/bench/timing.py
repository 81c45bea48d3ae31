"""Speed against the reference: random paired rounds, one clock, the same token batches.

A noisy machine slows both sides of a round alike, so the ratio within a round is what holds; the
median of the rounds' ratios and its bootstrap interval are reported, not one lucky run.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipeline.engines import Encoder
from pipeline.tokens import TokenBatch

_LEAST_ROUNDS = 3

NARROW = 0.05
"""Rounds end early once the interval is narrower than this share of the median."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Throughput:
    """Sentences per second of both sides (medians over rounds) and their ratio."""

    sentences_per_second: float
    reference_sentences_per_second: float
    tokens_per_second: float
    speedup: float
    ci95: tuple[float, float]
    rounds: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Latency:
    """Milliseconds for one sentence at a time, tokenization not included."""

    n: int
    p50: float
    p95: float
    p99: float


def compare_throughput(
    reference: Encoder,
    artifact: Encoder,
    batches: Sequence[TokenBatch],
    *,
    min_rounds: int,
    max_rounds: int,
    budget_s: float,
    seed: int = 0,
) -> Throughput:
    """Time both sides on the same batches, in rounds whose order is drawn at random.

    Ends after ``max_rounds``, from ``min_rounds`` on once the interval is narrow, or when the
    budget is spent, though not before three rounds. Both sides take the batches from host memory
    and return the embeddings to it.
    """
    random = np.random.default_rng(seed)
    sides = (reference, artifact)
    for side in sides:
        _round(side, [batches[0], batches[-1]])
    times: list[tuple[float, float]] = []
    started = time.perf_counter()
    while len(times) < max_rounds:
        pair = [0.0, 0.0]
        for i in random.permutation(2):
            pair[i] = _round(sides[i], batches)
        times.append((pair[0], pair[1]))
        if len(times) >= _LEAST_ROUNDS and time.perf_counter() - started >= budget_s:
            break
        if len(times) >= min_rounds:
            _, (low, high) = _ratio(times)
            if high - low < NARROW * (low + high) / 2:
                break
    median, interval = _ratio(times)
    sentences = sum(len(batch.input_ids) for batch in batches)
    tokens = sum(batch.tokens for batch in batches)
    seconds = np.median(times, axis=0)
    return Throughput(
        sentences_per_second=float(sentences / seconds[1]),
        reference_sentences_per_second=float(sentences / seconds[0]),
        tokens_per_second=float(tokens / seconds[1]),
        speedup=median,
        ci95=interval,
        rounds=len(times),
    )


def measure_latency(encoder: Encoder, singles: Sequence[TokenBatch], *, runs: int) -> Latency:
    """Time ``runs`` batches of one sentence, cycling through ``singles`` after a warm-up."""
    for batch in singles[:10]:
        encoder.encode(batch)
    ms = np.array([_round(encoder, [singles[i % len(singles)]]) * 1e3 for i in range(runs)])
    p50, p95, p99 = (float(np.quantile(ms, q)) for q in (0.5, 0.95, 0.99))
    return Latency(n=runs, p50=p50, p95=p95, p99=p99)


def _round(encoder: Encoder, batches: Sequence[TokenBatch]) -> float:
    start = time.perf_counter()
    for batch in batches:
        encoder.encode(batch)
    return time.perf_counter() - start


def _ratio(times: Sequence[tuple[float, float]]) -> tuple[float, tuple[float, float]]:
    """Return the median of reference/artifact and its 95% bootstrap percentile interval."""
    array: npt.NDArray[np.float64] = np.array(times)
    ratios = array[:, 0] / array[:, 1]
    draws = np.random.default_rng(0).integers(0, len(ratios), size=(2000, len(ratios)))
    medians = np.median(ratios[draws], axis=1)
    low, high = (float(np.quantile(medians, q)) for q in (0.025, 0.975))
    return float(np.median(ratios)), (low, high)
