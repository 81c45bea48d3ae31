"""Measure whether a text's vector depends on what it is batched with, or on its padding.

It should not: int8 with dynamic scales fails here, since one scale is taken over the whole batch,
and so does an attention mask that lets padding through.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.engines import Encoder
from pipeline.text.tokens import TokenBatch, Tokenizer, TokenRow
from pipeline.vectors import FloatArray, row_cosines, unit, zero_where_not_finite

TEXTS = 32
_BATCH = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Invariance:
    """Lowest cosine of ``n`` texts, each alone, with themselves.

    ``batch``: in a batch of texts from the shortest to the longest. ``padding``: still alone,
    padded to the longest text's length. ``move``: how far any component of any of their vectors, at
    length 1, moves between the three at most.
    """

    n: int
    batch: float
    padding: float
    move: float


def measure_invariance(
    encoder: Encoder, tokenizer: Tokenizer, rows: Sequence[TokenRow], limit: int = TEXTS
) -> Invariance:
    """Encode up to ``limit`` texts of ``rows``, from the shortest to the longest, three ways."""
    chosen = by_rank(rows, limit)
    longest = len(chosen[-1].ids)
    alone = np.concatenate([_encode(encoder, tokenizer.pad([row])) for row in chosen])
    padded = np.concatenate(
        [_encode(encoder, tokenizer.pad([row], length=longest)) for row in chosen]
    )
    batched = _in_mixed_batches(encoder, tokenizer, chosen)
    return Invariance(
        n=len(chosen),
        batch=float(row_cosines(alone, batched).min()),
        padding=float(row_cosines(alone, padded).min()),
        move=max(largest_move(alone, batched), largest_move(alone, padded)),
    )


def largest_move(a: FloatArray, b: FloatArray) -> float:
    """Return the largest difference of one component of a row of ``a`` and ``b``, at length 1."""
    return float(np.abs(unit(a) - unit(b)).max())


def by_rank(rows: Sequence[TokenRow], limit: int) -> list[TokenRow]:
    """Return at most ``limit`` rows by length, evenly spread, shortest and longest included."""
    ordered = sorted(rows, key=lambda row: len(row.ids))
    ranks = np.linspace(0, len(ordered) - 1, min(limit, len(ordered))).round().astype(int)
    return [ordered[i] for i in ranks]


def _in_mixed_batches(
    encoder: Encoder, tokenizer: Tokenizer, rows: Sequence[TokenRow]
) -> FloatArray:
    """Encode rows, ordered by length, in batches that each reach over all lengths."""
    count = -(-len(rows) // _BATCH)
    vectors = [_encode(encoder, tokenizer.pad(rows[i::count])) for i in range(count)]
    result = np.empty((len(rows), vectors[0].shape[1]), dtype=np.float32)
    for i, part in enumerate(vectors):
        result[i::count] = part
    return result


def _encode(encoder: Encoder, batch: TokenBatch) -> FloatArray:
    return zero_where_not_finite(encoder.encode(batch))
