"""Cut texts into windows: what is read, tokenized, encoded and let go together."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

WINDOW_TEXTS = 4096
"""Texts that are read ahead, tokenized together and sorted by length."""

WINDOW_CHARACTERS = 1 << 20
"""A window of long texts ends here, but not before it fills four batches."""


def check_text(text: object, index: int) -> None:
    """Refuse what is no text; ``index`` is its place among all.

    Raises:
        TypeError: not a str.
    """
    if not isinstance(text, str):
        raise TypeError(f"text {index}: expected a str, got {type(text).__name__}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """Texts that are tokenized together; the first is number ``start`` of all."""

    start: int
    texts: list[str]
    last: bool


def windows(texts: Iterator[str], batch_size: int | None, longest: int) -> Iterator[Window]:
    """Yield the texts window by window, at least one window.

    No more than one character over ``longest`` is kept of a text: the tokenizer reads no further.
    """
    most, least = max(WINDOW_TEXTS, batch_size or 1), 4 * (batch_size or 1)
    start, characters = 0, 0
    window: list[str] = []
    for index, text in enumerate(texts):
        if len(window) >= most or (characters >= WINDOW_CHARACTERS and len(window) >= least):
            yield Window(start=start, texts=window, last=False)
            start, characters, window = index, 0, []
        check_text(text, index)
        window.append(text[: longest + 1])
        characters += len(window[-1])
    yield Window(start=start, texts=window, last=True)


def gather(blocks: Iterator[npt.NDArray[Any]], count: int | None) -> npt.NDArray[Any]:
    """Join blocks; where the ``count`` of rows is known they are never held twice."""
    first = next(blocks)
    if count == len(first):
        return first
    if count is None:
        return np.concatenate([first, *blocks])
    whole = np.empty((count, *first.shape[1:]), first.dtype)
    whole[: len(first)] = first
    start = len(first)
    for block in blocks:
        whole[start : start + len(block)] = block
        start += len(block)
    return whole[:start]
