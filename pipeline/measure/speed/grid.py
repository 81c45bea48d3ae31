"""Time every batch size and sequence length: full rows of real tokens, cheapest cells first."""

import itertools
import logging
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from pipeline.engines import Encoder
from pipeline.errors import MeasureError, first_line
from pipeline.measure.speed.intervals import LEAST_ROUNDS, Speedup, compare
from pipeline.measure.speed.rounds import Pass, RoundLimits, time_rounds
from pipeline.measure.speed.side import Side
from pipeline.text.tokens import TokenBatch, TokenRow
from pipeline.vectors import DoubleArray

log = logging.getLogger(__name__)

NO_TIME = "time budget"
NO_PROFILE = "not in a profile"
_WAKE_S = 0.03
"""Shorter than for the rounds: a table of many cells shows a course, not the last per cent."""

_MOST_ROUNDS = 12
_LEAST_PASS_S = 0.005
"""A pass repeats a small batch until it takes this long, well above the clock's own noise."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CellTiming:
    """Milliseconds for one batch of a cell, by artifact and reference, and their ratio."""

    ms: float
    reference_ms: float
    tokens_per_second: float
    speedup: Speedup
    rounds: int


@dataclass(frozen=True, slots=True, kw_only=True)
class GridCell:
    """One batch size and sequence length: its timing, or why there is none."""

    batch: int
    sequence: int
    timing: CellTiming | None = None
    skipped: str | None = None


def grid_shapes(
    batches: Sequence[int], sequences: Sequence[int], max_length: int
) -> list[tuple[int, int]]:
    """Return the cells (batch, sequence); sequences beyond the model's limit become the limit."""
    lengths = sorted({min(sequence, max_length) for sequence in sequences})
    return list(itertools.product(sorted(set(batches)), lengths))


def measure_grid(
    reference: Encoder,
    sides: Sequence[Side],
    rows: Sequence[TokenRow],
    shapes: Sequence[tuple[int, int]],
    *,
    narrow: float,
    budget_s: float,
    seed: int | None = None,
) -> list[list[GridCell]]:
    """Return each side's cells, in the order of ``shapes``; all sides share a cell's rounds.

    Cells with the fewest tokens are timed first. A cell that the budget has no time for (judged by
    the seconds a token took in the cell before) is skipped, and so are all larger ones.
    """
    deadline = time.perf_counter() + budget_s
    cells: list[dict[tuple[int, int], GridCell]] = [{} for _ in sides]
    seconds_a_token = 0.0
    order = sorted(shapes, key=lambda shape: (shape[0] * shape[1], shape))
    for done, shape in enumerate(order):
        tokens = shape[0] * shape[1]
        takers = [i for i, side in enumerate(sides) if side.takes is None or side.takes(*shape)]
        left = deadline - time.perf_counter()
        late = left <= 0 or seconds_a_token * tokens * (LEAST_ROUNDS + 1) > left
        reason = NO_TIME if late else ""
        if takers and not late:
            encoders = [reference, *(sides[i].encoder for i in takers)]
            limits = RoundLimits(
                min_rounds=LEAST_ROUNDS,
                max_rounds=_MOST_ROUNDS,
                narrow=narrow,
                wake_s=_WAKE_S,
                budget_s=left / (len(order) - done),
            )
            try:
                times = _time_cell(encoders, full_batch(rows, *shape), limits, seed)
            except (MeasureError, RuntimeError, MemoryError) as error:
                reason = f"failed: {first_line(error)[:200]}"
                log.warning("batch %d, %d tokens: %s", *shape, reason)
            else:
                seconds_a_token = float(np.median(times, axis=0).sum()) / tokens
                for column, i in enumerate(takers, start=1):
                    cells[i][shape] = _timed_cell(shape, times, column)
        for i in range(len(sides)):
            if shape not in cells[i]:
                skipped = reason if i in takers else NO_PROFILE
                cells[i][shape] = GridCell(batch=shape[0], sequence=shape[1], skipped=skipped)
    return [[of_side[shape] for shape in shapes] for of_side in cells]


def full_batch(rows: Sequence[TokenRow], batch: int, sequence: int) -> TokenBatch:
    """Cut a batch of real tokens, no padding, from the text's tokens, again from its start."""
    ids = [i for row in rows for i in row.ids]
    types = [i for row in rows for i in row.type_ids]
    cycle = np.arange(batch * sequence).reshape(batch, sequence) % len(ids)
    return TokenBatch(
        input_ids=np.array(ids, dtype=np.int64)[cycle],
        attention_mask=np.ones((batch, sequence), dtype=np.int64),
        token_type_ids=np.array(types, dtype=np.int64)[cycle],
    )


def _time_cell(
    encoders: Sequence[Encoder], batch: TokenBatch, limits: RoundLimits, seed: int | None
) -> DoubleArray:
    """Return the seconds of one batch, ``[rounds, encoders]``."""
    first = TokenBatch(
        input_ids=batch.input_ids[:1],
        attention_mask=batch.attention_mask[:1],
        token_type_ids=batch.token_type_ids[:1],
    )
    fastest = min(_seconds(encoder, batch) for encoder in encoders)
    repeats = max(1, math.ceil(_LEAST_PASS_S / max(fastest, 1e-6)))
    passes = [
        Pass(
            work=partial(_repeat, encoder, batch, repeats), wake=partial(_repeat, encoder, first, 1)
        )
        for encoder in encoders
    ]
    return time_rounds(passes, limits, seed=seed) / repeats


def _repeat(encoder: Encoder, batch: TokenBatch, times: int) -> None:
    for _ in range(times):
        encoder.encode(batch)


def _seconds(encoder: Encoder, batch: TokenBatch) -> float:
    start = time.perf_counter()
    encoder.encode(batch)
    return time.perf_counter() - start


def _timed_cell(shape: tuple[int, int], times: DoubleArray, column: int) -> GridCell:
    reference_s, side_s = (float(np.median(times[:, i])) for i in (0, column))
    return GridCell(
        batch=shape[0],
        sequence=shape[1],
        timing=CellTiming(
            ms=side_s * 1e3,
            reference_ms=reference_s * 1e3,
            tokens_per_second=shape[0] * shape[1] / side_s,
            speedup=compare(times[:, 0], times[:, column]),
            rounds=len(times),
        ),
    )
