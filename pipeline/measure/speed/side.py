"""Name what is timed: each side of a comparison, be it the reference, an artifact or a baseline."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from pipeline.engines import Encoder


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """An encoder of token batches, and what else is known of it.

    ``encode_texts`` is the way from texts to vectors that its user calls, None where only token
    batches are timed. ``takes`` says whether it takes a batch of so many rows and tokens (None:
    any). ``predecessor`` is the published encoder that it would replace.
    """

    encoder: Encoder
    encode_texts: Callable[[Sequence[str]], object] | None = None
    takes: Callable[[int, int], bool] | None = None
    predecessor: Encoder | None = None
