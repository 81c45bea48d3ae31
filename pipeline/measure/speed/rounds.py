"""Time several sides against each other: every round each side once, in random order, one clock.

A noisy machine slows all sides of a round alike, so the ratios within a round hold where single
times do not; and all ratios of one matrix of times speak of the same minutes.
"""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.engines import Encoder
from pipeline.measure.speed.intervals import LEAST_ROUNDS, compare
from pipeline.text.tokens import TokenBatch
from pipeline.vectors import DoubleArray

WAKE_S = 0.1
"""Longer than the threads of the side before spin for new work, and long enough for a clock to
settle: a session against itself varied by 7.5 % without, 5.8 % at 30 ms, 3.7 % at 100 ms."""

_LOOK_AGAIN = 1.25


@dataclass(frozen=True, slots=True, kw_only=True)
class Pass:
    """One side's work in a round: ``work`` is timed, ``wake`` is short and does not count."""

    work: Callable[[], object]
    wake: Callable[[], object]


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundLimits:
    """When rounds end: intervals narrower than ``narrow`` (share of the ratio), or a limit.

    ``wake_s`` is how long a side runs untimed before each pass.
    """

    min_rounds: int
    max_rounds: int
    narrow: float
    budget_s: float
    wake_s: float = WAKE_S


def encoder_pass(encoder: Encoder, batches: Sequence[TokenBatch]) -> Pass:
    """Return an encoder's pass over token batches; it wakes with the last, the shortest one."""

    def work() -> None:
        for batch in batches:
            encoder.encode(batch)

    return Pass(work=work, wake=lambda: encoder.encode(batches[-1]))


def time_rounds(
    passes: Sequence[Pass],
    limits: RoundLimits,
    *,
    seed: int | None = None,
    against: Sequence[int] | None = None,
) -> DoubleArray:
    """Return the seconds of each pass, ``[rounds, sides]``; the first side is the reference.

    Where there are several, ``against`` gives for each side the number of its own.
    Each side makes one pass as a warm-up. Before a timed pass it runs short ones for
    ``wake_s``: the threads of the side before it (OpenMP, ONNX Runtime) spin for a while after
    their work and would cost it.
    Ends at ``max_rounds``, once the ratio of every side to its own is narrow, or before a round
    that the budget has no time for, but never with fewer than ``LEAST_ROUNDS`` rounds. Intervals
    are looked at from ``min_rounds`` on and not after every round: each look is a chance to stop at
    an interval that is narrow by luck.
    """
    random = np.random.default_rng(seed)
    started = time.perf_counter()
    for one in passes:
        one.work()
    warm = time.perf_counter()
    rounds: list[list[float]] = []
    look = max(limits.min_rounds, LEAST_ROUNDS)
    own = [0] * len(passes) if against is None else against
    while len(rounds) < max(limits.max_rounds, LEAST_ROUNDS):
        if len(rounds) >= LEAST_ROUNDS:
            now = time.perf_counter()
            if now - started + (now - warm) / len(rounds) > limits.budget_s:
                break
        if len(rounds) >= look:
            if _is_narrow(np.array(rounds), limits.narrow, own):
                break
            look = math.ceil(look * _LOOK_AGAIN)
        seconds = [0.0] * len(passes)
        for i in random.permutation(len(passes)):
            seconds[i] = _time_pass(passes[i], limits.wake_s)
        rounds.append(seconds)
    return np.array(rounds)


def _time_pass(one: Pass, wake_s: float) -> float:
    awake = time.perf_counter() + wake_s
    one.wake()
    while time.perf_counter() < awake:
        one.wake()
    start = time.perf_counter()
    one.work()
    return time.perf_counter() - start


def _is_narrow(times: DoubleArray, narrow: float, against: Sequence[int]) -> bool:
    return all(
        compare(times[:, reference], times[:, side]).width < narrow
        for side, reference in enumerate(against)
        if side != reference
    )
