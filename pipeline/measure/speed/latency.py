"""Time one sentence at a time, in milliseconds, with the percentiles that the sample carries."""

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.engines import Encoder
from pipeline.text.tokens import TokenBatch

_CHUNK = 20
_CARRIED_FROM = {0.5: 1, 0.95: 100, 0.99: 500}
"""Runs from which a quantile rests on at least five slower ones."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Latency:
    """Quantiles over ``n`` runs in milliseconds, tokenization not included; None: too few runs."""

    n: int
    p50: float
    p95: float | None
    p99: float | None


def measure_latencies(
    encoders: Sequence[Encoder],
    singles: Sequence[TokenBatch],
    *,
    runs: int,
    budget_s: float,
    seed: int | None = None,
) -> list[Latency]:
    """Time up to ``runs`` batches of one sentence with each encoder, cycling through ``singles``.

    The encoders take turns, 20 runs each in random order, so that all see the same minutes; turns
    end when the budget is spent, but not before each has had one.
    """
    random = np.random.default_rng(seed)
    started = time.perf_counter()
    for encoder in encoders:
        for batch in singles[:_CHUNK]:
            encoder.encode(batch)
    ms: list[list[float]] = [[] for _ in encoders]
    for first in range(0, runs, _CHUNK):
        if first and time.perf_counter() - started >= budget_s:
            break
        for i in random.permutation(len(encoders)):
            encoders[i].encode(singles[first % len(singles)])
            for run in range(first, min(first + _CHUNK, runs)):
                ms[i].append(_time_one(encoders[i], singles[run % len(singles)]) * 1e3)
    return [_summarize(values) for values in ms]


def _time_one(encoder: Encoder, batch: TokenBatch) -> float:
    start = time.perf_counter()
    encoder.encode(batch)
    return time.perf_counter() - start


def _summarize(ms: Sequence[float]) -> Latency:
    p50, p95, p99 = (
        float(np.quantile(ms, q)) if len(ms) >= least else None
        for q, least in _CARRIED_FROM.items()
    )
    assert p50 is not None
    return Latency(n=len(ms), p50=p50, p95=p95, p99=p99)
