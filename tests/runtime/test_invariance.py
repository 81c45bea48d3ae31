from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest

from pipeline.contracts import OnnxModel
from pipeline.engines.onnxruntime import OnnxRuntimeEncoder
from pipeline.runtime.invariance import by_rank, measure_invariance
from pipeline.text.datasets import Dataset
from pipeline.text.tokens import TokenBatch, Tokenizer, TokenRow

FloatArray = npt.NDArray[np.float32]


class Encoder:
    """One hot vectors of the first token, moved by what ``leak`` takes from the batch."""

    name = "fake"
    device = "cpu"
    max_tokens: int | None = None
    bucketed = False

    def __init__(self, leak: Callable[[TokenBatch], float]) -> None:
        self.leak = leak
        self.shapes: list[tuple[int, ...]] = []

    def encode(self, batch: TokenBatch) -> FloatArray:
        self.shapes.append(batch.input_ids.shape)
        vectors = np.zeros((len(batch.input_ids), 2), dtype=np.float32)
        vectors[:, 0] = 1
        vectors[:, 1] = self.leak(batch)
        tokens = batch.attention_mask.sum(axis=1, keepdims=True)
        return np.asarray(vectors * tokens, dtype=np.float32)


def rows(*lengths: int) -> list[TokenRow]:
    return [TokenRow(ids=tuple(range(1, n + 1)), type_ids=(0,) * n) for n in lengths]


def test_an_encoder_that_looks_at_each_text_alone_is_invariant(tiny_tokenizer: Tokenizer) -> None:
    encoder = Encoder(lambda _: 0.0)
    seen = measure_invariance(encoder, tiny_tokenizer, rows(*range(3, 21)))
    assert seen.n == 18
    assert (seen.batch, seen.padding) == pytest.approx((1, 1))
    assert seen.move == 0
    alone, padded, batched = encoder.shapes[:18], encoder.shapes[18:36], encoder.shapes[36:]
    assert alone == [(1, n) for n in range(3, 21)]
    assert padded == [(1, 20)] * 18
    assert [size for size, _ in batched] == [6, 6, 6]
    assert {width for _, width in batched} == {18, 19, 20}


def test_padding_that_leaks_is_seen_alone_and_in_a_batch(tiny_tokenizer: Tokenizer) -> None:
    encoder = Encoder(lambda batch: float((batch.attention_mask == 0).any()))
    seen = measure_invariance(encoder, tiny_tokenizer, rows(*range(3, 21)))
    assert (seen.batch, seen.padding) == pytest.approx((0.5**0.5, 0.5**0.5))
    assert seen.move == pytest.approx(0.5**0.5)


def test_one_scale_for_a_whole_batch_is_seen_in_the_batch_only(tiny_tokenizer: Tokenizer) -> None:
    # As dynamic int8 has it: the largest value of the batch decides; padding adds none.
    encoder = Encoder(lambda batch: batch.input_ids.max() / 20 if len(batch.input_ids) > 1 else 0)
    seen = measure_invariance(encoder, tiny_tokenizer, rows(*range(3, 21)))
    assert seen.padding == pytest.approx(1)
    assert seen.batch == pytest.approx(0.5**0.5)
    assert seen.move == pytest.approx(0.5**0.5)


def test_a_text_in_a_batch_is_compared_with_itself(tiny_tokenizer: Tokenizer) -> None:
    class ByLength(Encoder):
        def encode(self, batch: TokenBatch) -> FloatArray:
            angle = batch.attention_mask.sum(axis=1) / 30
            return np.stack([np.cos(angle), np.sin(angle)], axis=1).astype(np.float32)

    shuffled = rows(9, 3, 17, 5, 30, 12, 8, 21, 4, 28)
    seen = measure_invariance(ByLength(lambda _: 0.0), tiny_tokenizer, shuffled)
    assert (seen.batch, seen.padding) == pytest.approx((1, 1))


def test_the_shortest_and_the_longest_are_among_those_chosen() -> None:
    chosen = by_rank(rows(*range(100, 0, -1)), 32)
    lengths = [len(row.ids) for row in chosen]
    assert (lengths[0], lengths[-1], len(set(lengths))) == (1, 100, 32)
    assert max(np.diff(lengths)) <= 4
    assert by_rank(rows(5), 32) == rows(5)


def test_the_exported_graph_is_invariant(
    tiny_fp32: OnnxModel, tiny_tokenizer: Tokenizer, sample: Dataset
) -> None:
    encoder = OnnxRuntimeEncoder(tiny_fp32.path, cuda=False)
    seen = measure_invariance(encoder, tiny_tokenizer, tiny_tokenizer.rows(sample.evaluation))
    assert seen.n == 32
    assert min(seen.batch, seen.padding) > 0.999999
    assert seen.move < 1e-5
