"""Hold many texts' tokens end to end, and cut padded batches from them."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import chain

import numpy as np

from pipeline.vectors import IntArray


@dataclass(frozen=True, slots=True, kw_only=True)
class Ragged:
    """Text ``i`` has ``lengths[i]`` tokens, from ``starts[i]`` on.

    ``type_ids`` is None where every token of every text has the same one.
    """

    ids: IntArray
    type_ids: IntArray | None
    starts: IntArray
    lengths: IntArray


@dataclass(frozen=True, slots=True, kw_only=True)
class Padding:
    """What a tokenizer pads with, where, and the type of all its tokens if they have but one.

    ``limit``: the tokens that the model takes at most.
    """

    token: int
    type_id: int
    left: bool
    only_type: int | None
    limit: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenBatch:
    """Padded int64 arrays ``[batch, sequence]``, ready for a graph.

    ``padding``: how they may be padded on; None where nobody says how.
    """

    input_ids: IntArray
    attention_mask: IntArray
    token_type_ids: IntArray
    padding: Padding | None = None

    def feed(self, names: Sequence[str]) -> dict[str, IntArray]:
        """Return the arrays a graph with these input names takes."""
        return {name: getattr(self, name) for name in names}

    def widened(self, multiple: int) -> "TokenBatch":
        """Pad on to a multiple of this many tokens, or to the most that the model takes."""
        width = self.input_ids.shape[1]
        if self.padding is None or width % multiple == 0 or width >= self.padding.limit:
            return self
        more = min(width + -width % multiple, self.padding.limit) - width
        sides = ((0, 0), (more, 0) if self.padding.left else (0, more))
        return replace(
            self,
            input_ids=np.pad(self.input_ids, sides, constant_values=self.padding.token),
            attention_mask=np.pad(self.attention_mask, sides),
            token_type_ids=np.pad(self.token_type_ids, sides, constant_values=self.padding.type_id),
        )

    @property
    def tokens(self) -> int:
        """Real tokens, padding not counted."""
        return int(self.attention_mask.sum())


def join(ids: Sequence[Sequence[int]], types: Sequence[Sequence[int]] | None) -> Ragged:
    """Put texts end to end."""
    lengths = np.fromiter(map(len, ids), np.int64, len(ids))
    ends = np.cumsum(lengths)
    total = int(ends[-1]) if len(ends) else 0

    def flat(rows: Sequence[Sequence[int]]) -> IntArray:
        return np.fromiter(chain.from_iterable(rows), np.int64, total)

    return Ragged(
        ids=flat(ids),
        type_ids=None if types is None else flat(types),
        starts=ends - lengths,
        lengths=lengths,
    )


def pad(ragged: Ragged, chosen: IntArray, width: int, padding: Padding) -> TokenBatch:
    """Cut out the texts with these indices, in their order, and pad them to ``width`` tokens."""
    starts, lengths = ragged.starts[chosen, None], ragged.lengths[chosen, None]
    place = np.arange(width) - (width - lengths if padding.left else 0)
    real = (place >= 0) & (place < lengths)
    source = np.where(real, starts + place, 0)

    def fill(values: IntArray, empty: int) -> IntArray:
        taken = values[source] if len(values) else np.int64(empty)
        return np.where(real, taken, np.int64(empty))

    if ragged.type_ids is None:
        types = np.where(real, np.int64(padding.only_type or 0), np.int64(padding.type_id))
    else:
        types = fill(ragged.type_ids, padding.type_id)
    return TokenBatch(
        input_ids=fill(ragged.ids, padding.token),
        attention_mask=real.astype(np.int64),
        token_type_ids=types,
        padding=padding,
    )
