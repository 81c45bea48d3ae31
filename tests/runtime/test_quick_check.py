"""The check of a server that starts: short, and what ``verify --run`` sees it sees too."""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest

from pipeline.bundle.proof import Proof
from pipeline.errors import BundleError
from pipeline.runtime.check import QUICK_PADDED, QUICK_TEXTS, check_engine, require_passed
from pipeline.runtime.encoder import TextEncoder
from pipeline.text.tokens import TokenBatch, Tokenizer

FloatArray = npt.NDArray[np.float32]
LENGTHS = [*range(4, 36), 44]
"""Tokens of the check texts; a long one is among them, as among a bundle's."""


class Engine:
    """A vector of the number of tokens, moved by what ``leak`` takes from the batch."""

    name = "fake"
    device = "cpu"
    max_tokens: int | None = 2048
    bucketed = False

    def __init__(self, leak: Callable[[TokenBatch], float]) -> None:
        self.leak = leak
        self.shapes: list[tuple[int, int]] = []

    def encode(self, batch: TokenBatch) -> FloatArray:
        rows, width = batch.input_ids.shape
        self.shapes.append((rows, width))
        angle = batch.attention_mask.sum(axis=1) / 100 + self.leak(batch)
        return np.stack([np.cos(angle), np.sin(angle)], axis=1).astype(np.float32)


def encoder(tokenizer: Tokenizer, leak: Callable[[TokenBatch], float]) -> TextEncoder:
    return TextEncoder(
        tokenizer,
        Engine(leak),
        dimension=2,
        prompts={},
        default_prompt=None,
        embedding_ranges=None,
    )


@pytest.fixture
def proof(tiny_tokenizer: Tokenizer) -> Proof:
    texts = [" ".join(["a"] * (length - 2)) for length in LENGTHS]
    assert [len(row.ids) for row in tiny_tokenizer.rows(texts)] == LENGTHS
    gates = {"cosine.mean": 0.99, "invariance.batch": 0.9999, "invariance.padding": 0.9999}
    vectors = np.concatenate(
        [
            Engine(lambda _: 0.0).encode(tiny_tokenizer.pad([row]))
            for row in tiny_tokenizer.rows(texts)
        ]
    )
    return Proof(texts=texts, vectors=vectors, gates=gates)


def nothing(_: TokenBatch) -> float:
    return 0.0


def padding(batch: TokenBatch) -> float:
    return 0.05 * bool((batch.attention_mask == 0).any())


def company(batch: TokenBatch) -> float:
    return 0.05 * (len(batch.input_ids) > 1)


def test_it_reaches_over_all_lengths_and_pads_little(
    tiny_tokenizer: Tokenizer, proof: Proof
) -> None:
    tested = encoder(tiny_tokenizer, nothing)
    checked = check_engine(tested, proof, quick=True)
    assert (checked.failed, checked.invariance.n) == ([], 4)
    assert checked.n >= QUICK_TEXTS
    shapes = tested.engine.shapes  # type: ignore[attr-defined]
    widths = [width for _, width in shapes]
    assert max(widths) == LENGTHS[-1]
    assert sum(width > QUICK_PADDED for width in widths) <= 2  # once, with its neighbours
    assert sum(rows * width for rows, width in shapes) < 1.7 * sum(LENGTHS)


@pytest.mark.parametrize(("leak", "gate"), [(padding, "padding"), (company, "batch")])
def test_what_leaks_is_seen(
    tiny_tokenizer: Tokenizer,
    proof: Proof,
    leak: Callable[[TokenBatch], float],
    gate: str,
) -> None:
    checked = check_engine(encoder(tiny_tokenizer, leak), proof, quick=True)
    assert any(name.startswith(f"invariance.{gate} ") for name in checked.failed)
    with pytest.raises(BundleError, match=rf"invariance\.{gate} 0\.99.* < 0\.9999 over 33"):
        require_passed(checked, "bundle")


def test_where_every_text_is_long_they_are_taken_all_the_same(
    tiny_tokenizer: Tokenizer, proof: Proof
) -> None:
    long = [i for i, length in enumerate(LENGTHS) if length > QUICK_PADDED]
    only = Proof(
        texts=[proof.texts[i] for i in long], vectors=proof.vectors[long], gates=proof.gates
    )
    checked = check_engine(encoder(tiny_tokenizer, padding), only, quick=True)
    assert checked.invariance.n == len(long) == 4
    assert any(name.startswith("invariance.padding") for name in checked.failed)
