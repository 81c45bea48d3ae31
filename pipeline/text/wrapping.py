"""What a chat template puts around a text, where a Sentence Transformer makes messages of texts.

Kept as strings, not as token ids: a token may reach from the template into the text.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Wrapping:
    """The strings around a text without a prompt, and around a prompt and its text.

    ``trims`` drops whitespace around both. ``last_ids`` end every text that reaches the limit:
    Sentence Transformers puts the template's end back where truncation took it.
    """

    bare: str
    before: str
    between: str
    after: str
    trims: bool
    last_ids: tuple[int, ...]

    def head(self, prompt: str) -> str:
        """Return what stands before a text."""
        if not prompt:
            return self.bare
        return self.before + (prompt.strip() if self.trims else prompt) + self.between

    def ended(self, ids: Sequence[int], max_length: int) -> tuple[int, ...]:
        """Return the ids with the template's end, where they are as many as the model takes."""
        count = min(len(self.last_ids), len(ids))
        if count == 0 or len(ids) < max_length:
            return tuple(ids)
        return (*ids[: len(ids) - count], *self.last_ids[-count:])


def read_wrapping(settings: Mapping[str, Any] | None) -> Wrapping | None:
    """Return the wrapping that a tokenizer's settings state, or None."""
    if settings is None:
        return None
    return Wrapping(
        bare=settings["bare"],
        before=settings["before"],
        between=settings["between"],
        after=settings["after"],
        trims=settings["trims"],
        last_ids=tuple(settings["last_ids"]),
    )
