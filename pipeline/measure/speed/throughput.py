"""Compute sentences per second of both sides, and their ratio, from rounds."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.measure.speed.intervals import Speedup, compare
from pipeline.text.tokens import TokenBatch
from pipeline.vectors import DoubleArray


@dataclass(frozen=True, slots=True, kw_only=True)
class Throughput:
    """Sentences per second (medians over rounds) and the ratio of the rounds.

    ``texts`` of ``mean_tokens`` real tokens each were encoded in a pass.
    """

    sentences_per_second: float
    reference_sentences_per_second: float
    tokens_per_second: float
    speedup: Speedup
    rounds: int
    texts: int
    mean_tokens: float


def throughput(
    times: DoubleArray, column: int, batches: Sequence[TokenBatch], *, against: int = 0
) -> Throughput:
    """Return what the rounds over ``batches``, ``[rounds, sides]``, say of a column.

    ``against`` is the column of its reference.
    """
    texts = sum(len(batch.input_ids) for batch in batches)
    tokens = sum(batch.tokens for batch in batches)
    reference_s, side_s = (float(np.median(times[:, i])) for i in (against, column))
    return Throughput(
        sentences_per_second=texts / side_s,
        reference_sentences_per_second=texts / reference_s,
        tokens_per_second=tokens / side_s,
        speedup=compare(times[:, against], times[:, column]),
        rounds=len(times),
        texts=texts,
        mean_tokens=tokens / texts,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class TextThroughput:
    """The same from text to vectors, tokenization included."""

    sentences_per_second: float
    reference_sentences_per_second: float
    speedup: Speedup
    rounds: int


def text_throughput(
    times: DoubleArray, column: int, texts: int, *, against: int = 0
) -> TextThroughput:
    """Return what rounds over ``texts`` texts say of a column, as ``throughput``."""
    reference_s, side_s = (float(np.median(times[:, i])) for i in (against, column))
    return TextThroughput(
        sentences_per_second=texts / side_s,
        reference_sentences_per_second=texts / reference_s,
        speedup=compare(times[:, against], times[:, column]),
        rounds=len(times),
    )
