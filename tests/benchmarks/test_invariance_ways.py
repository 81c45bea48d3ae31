"""The ways in which benchmarks.invariance encodes texts other than one by one."""

from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.invariance import Asked, measure
from pipeline.text.tokens import TokenBatch, Tokenizer

TEXTS = ["one", "two words", "here are three", "and now four words"]


class Encoder:
    """Vectors that turn with the width of the batch."""

    dimension = 2
    engine: Any

    def __init__(self, tokenizer: Tokenizer, angle: float) -> None:
        self.tokenizer = tokenizer
        self.engine = self
        self.angle = angle
        self.shapes: list[tuple[int, ...]] = []

    def encode(self, batch: TokenBatch | list[str], **_: object) -> npt.NDArray[np.float32]:
        if not isinstance(batch, TokenBatch):
            batch = self.tokenizer.pad(self.tokenizer.rows(batch))
        self.shapes.append(batch.input_ids.shape)
        rows, width = batch.input_ids.shape
        vector = [np.cos(self.angle * width), np.sin(self.angle * width)]
        return np.tile(np.array(vector, np.float32), (rows, 1))


def lines(encoder: Any) -> list[list[str]]:
    asked = Asked(sizes=[3], orders=["reversed"], buckets=[16])
    return [line.split(" | ") for line in measure(encoder, TEXTS, asked)]


def test_only_the_ways_asked_for_are_measured(tiny_tokenizer: Tokenizer) -> None:
    encoder = Encoder(tiny_tokenizer, 0)
    names = [name for name, *_ in lines(encoder)]
    assert names == ["batches of 3, reversed", "4 padded to 16", "4 threads at once"]
    assert [rows for rows, _ in encoder.shapes] == [1, 1, 1, 1, 3, 1, 4, 1, 1, 1, 1]
    widths = [width for _, width in encoder.shapes]
    assert (widths[4], widths[5], widths[6]) == (widths[3], widths[0], 16)


def test_a_width_that_turns_a_vector_is_a_text_that_moves(tiny_tokenizer: Tokenizer) -> None:
    moved = {
        name: (float(most), int(over))
        for name, most, _, over in lines(Encoder(tiny_tokenizer, 0.01))
    }
    assert moved["4 threads at once"] == (0, 0)
    assert moved["4 padded to 16"][0] > 0.01
    assert moved["4 padded to 16"][1] == 4
    assert moved["batches of 3, reversed"][1] == 2  # the longest and the first stay as they are
