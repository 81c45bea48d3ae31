"""Show which texts an artifact agrees on less: by length, by kind, and the worst ones."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.vectors import DoubleArray

P1_LEAST = 100
"""Below this many texts the 1st percentile is little but the lowest one."""
SHOWN = 200
_BINS_PER_DECADE = 10
_SMALLEST = 1e-8
"""Below it, 1 - cosine is the rounding of fp32 embeddings."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Text:
    """An evaluation text, its length in tokens (special tokens and prompt included), its kind."""

    text: str
    tokens: int
    kind: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """Cosines of some of the texts; ``p1`` is None below ``P1_LEAST``."""

    n: int
    mean: float
    p1: float | None
    min: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Histogram:
    """How many texts have 1 - cosine between an edge and the next: k counts, k + 1 edges."""

    edges: tuple[float, ...]
    counts: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Breakdown:
    """One agreement, taken apart.

    ``by_length`` holds (shortest, longest) tokens of each bucket, shortest first; ``by_kind`` the
    kind whose mean is lowest first, empty where texts carry none; ``worst`` the lowest cosines
    first, texts cut to ``SHOWN`` characters.
    """

    histogram: Histogram
    by_length: tuple[tuple[tuple[int, int], Group], ...]
    by_kind: tuple[tuple[str, Group], ...]
    worst: tuple[tuple[Text, float], ...]


def break_down(
    cosines: DoubleArray, texts: Sequence[Text], *, max_length: int, worst: int
) -> Breakdown:
    """Take the cosines of ``texts``, ``[n]``, apart; keep the ``worst`` lowest.

    Buckets of length end at 16 tokens and its doublings, the last one at ``max_length``.
    """
    buckets: dict[tuple[int, int], list[int]] = {}
    kinds: dict[str, list[int]] = {}
    for i, text in enumerate(texts):
        buckets.setdefault(_bucket(text.tokens, max_length), []).append(i)
        if text.kind is not None:
            kinds.setdefault(text.kind, []).append(i)
    by_kind = [(kind, _group(cosines[rows])) for kind, rows in kinds.items()]
    return Breakdown(
        histogram=loss_histogram(cosines),
        by_length=tuple((key, _group(cosines[buckets[key]])) for key in sorted(buckets)),
        by_kind=tuple(sorted(by_kind, key=lambda item: (item[1].mean, item[0]))),
        worst=tuple(
            (_cut(texts[i]), float(cosines[i])) for i in np.argsort(cosines, kind="stable")[:worst]
        ),
    )


def loss_histogram(cosines: DoubleArray) -> Histogram:
    """Count 1 - cosine in ten bins a decade from 1e-8 to 2, the same for every report.

    int8 loses around 1e-3 and fp16 around 1e-7: steps of equal ratio suit both. The first bin
    starts at 0 and takes what rounding puts below; empty bins at either end are left out.
    """
    grid = [_SMALLEST * 10 ** (i / _BINS_PER_DECADE) for i in range(8 * _BINS_PER_DECADE + 1)]
    edges = np.array([0.0, *grid, 2.0])
    loss = np.clip(1.0 - cosines, 0.0, 2.0)
    counts, _ = np.histogram(loss, bins=edges)
    filled = np.flatnonzero(counts)
    first, last = int(filled[0]), int(filled[-1])
    return Histogram(
        edges=tuple(float(f"{edge:.4g}") for edge in edges[first : last + 2]),
        counts=tuple(int(count) for count in counts[first : last + 1]),
    )


def _bucket(tokens: int, max_length: int) -> tuple[int, int]:
    low, high = 1, 16
    while tokens > high:
        low, high = high + 1, 2 * high
    return low, max(low, min(high, max_length))


def _group(cosines: DoubleArray) -> Group:
    n = len(cosines)
    return Group(
        n=n,
        mean=float(cosines.mean()),
        p1=float(np.quantile(cosines, 0.01)) if n >= P1_LEAST else None,
        min=float(cosines.min()),
    )


def _cut(text: Text) -> Text:
    return Text(text=text.text[:SHOWN], tokens=text.tokens, kind=text.kind)
