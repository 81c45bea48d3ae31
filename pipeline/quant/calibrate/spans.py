"""Cut random spans out of texts: short text where there is little of it.

A channel that fires on the end of a short plain sentence is not seen at full strength in long ones.
Spans of the texts there are widen the ranges toward what unseen text brings, and give
reconstruction more than the same few rows. Words that the texts lack do the same: a channel that
fires on one of them is seen nowhere else.
"""

from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from pipeline.text.tokens import TokenRow
from pipeline.vectors import IntArray

SHORTEST = 4
LONGEST = 16


def cut_span(row: TokenRow, length: int, random: np.random.Generator) -> TokenRow:
    """Return ``length`` tokens of a row: the first, the last two, and a span from between.

    The first and the last token are mostly special ones, the one before the last ends the sentence.
    Of less than four tokens, only the last one is kept; one token is the first.
    """
    if length < 2 or length >= len(row.ids):
        return TokenRow(ids=row.ids[:length], type_ids=row.type_ids[:length])
    tail = 2 if length >= SHORTEST else 1
    inner = length - 1 - tail
    start = 1 + int(random.integers(len(row.ids) - tail - inner))
    kept = [0, *range(start, start + inner), *range(len(row.ids) - tail, len(row.ids))]
    return TokenRow(
        ids=tuple(row.ids[i] for i in kept), type_ids=tuple(row.type_ids[i] for i in kept)
    )


def cut_spans(rows: Sequence[TokenRow], count: int) -> Iterator[TokenRow]:
    """Yield ``count`` random spans of 4 to 16 tokens of every row that is longer than 4."""
    random = np.random.default_rng(0)
    for row in rows:
        longest = min(len(row.ids) - 1, LONGEST)
        for _ in range(count if longest >= SHORTEST else 0):
            yield cut_span(row, int(random.integers(SHORTEST, longest + 1)), random)


def swap_words(rows: Iterable[TokenRow], vocabulary: IntArray) -> Iterator[TokenRow]:
    """Yield the rows with about half their tokens drawn from a vocabulary of token ids instead.

    The first and the last two tokens stay. From an empty vocabulary comes nothing.
    """
    random = np.random.default_rng(1)
    for row in rows if len(vocabulary) else ():
        inner = np.array(row.ids[1:-2], np.int64)
        drawn = random.choice(vocabulary, len(inner))
        inner = np.where(random.random(len(inner)) < 0.5, drawn, inner)
        yield TokenRow(ids=(row.ids[0], *inner.tolist(), *row.ids[-2:]), type_ids=row.type_ids)
