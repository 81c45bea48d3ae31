"""Batcher: texts of many threads in few batches, each with its own vector."""

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from pipeline.runtime import Batcher, TextEncoder
from pipeline.text.tokens import TokenBatch, Tokenizer

TEXTS = [f"{'many ' * (i % 9)}words in text {i}" for i in range(64)]


class Engine:
    name, device = "engine", "cpu"
    max_tokens: int | None = 512
    bucketed = False

    def __init__(self) -> None:
        self.shapes: list[tuple[int, ...]] = []
        self.started = threading.Event()
        self.go = threading.Event()
        self.go.set()

    def encode(self, batch: TokenBatch) -> npt.NDArray[np.float32]:
        self.started.set()
        assert self.go.wait(60)
        self.shapes.append(batch.input_ids.shape)
        if (batch.input_ids == 9999).any():
            raise MemoryError("the GPU is full")
        lengths = batch.attention_mask.sum(axis=1)
        ids = batch.input_ids[np.arange(len(lengths)), lengths - 2]
        return np.stack([lengths, ids], axis=1).astype(np.float32)


@pytest.fixture
def engine() -> Engine:
    return Engine()


@pytest.fixture
def encoder(tiny_tokenizer: Tokenizer, engine: Engine) -> TextEncoder:
    prompts = {"query": "query: "}
    return TextEncoder(tiny_tokenizer, engine, dimension=2, prompts=prompts, default_prompt=None)


@pytest.fixture(autouse=True)
def _no_thread_left() -> Iterator[None]:
    yield
    assert "batcher" not in [thread.name for thread in threading.enumerate()]


def test_threads_get_their_own_vectors_from_few_batches(
    encoder: TextEncoder, engine: Engine
) -> None:
    expected = encoder.encode(TEXTS)
    engine.shapes.clear()
    with Batcher(encoder, wait_ms=20) as batcher, ThreadPoolExecutor(32) as pool:
        observed = list(pool.map(batcher.encode, TEXTS * 3))
    np.testing.assert_array_equal(observed, np.tile(expected, (3, 1)))
    assert len(engine.shapes) < len(TEXTS)


def test_a_text_alone_waits_no_longer_than_told(encoder: TextEncoder) -> None:
    with Batcher(encoder, wait_ms=1) as batcher:
        batcher.encode("warm")
        start = time.monotonic()
        batcher.encode("alone")
        assert time.monotonic() - start < 2


def test_what_comes_meanwhile_is_the_next_batch(encoder: TextEncoder, engine: Engine) -> None:
    engine.go.clear()
    with Batcher(encoder, wait_ms=0) as batcher:
        first = batcher.submit("one")
        assert engine.started.wait(60)
        others = [batcher.submit("word") for _ in range(10)]
        engine.go.set()
        assert first.result(60).shape == (2,)
        assert [other.result(60)[0] for other in others] == [3.0] * 10
    assert engine.shapes == [(1, 3), (10, 3)]


def test_a_batch_holds_no_more_tokens_than_told(encoder: TextEncoder, engine: Engine) -> None:
    engine.go.clear()
    with Batcher(encoder, wait_ms=50, max_tokens=12) as batcher:
        waiting = [batcher.submit("word") for _ in range(9)]
        engine.go.set()
        for vector in waiting:
            vector.result(60)
    assert [rows for rows, _ in engine.shapes] == [4, 4, 1]


def test_a_full_batch_does_not_wait(encoder: TextEncoder) -> None:
    with Batcher(encoder, wait_ms=60_000, max_tokens=6) as batcher:
        waiting = [batcher.submit("word") for _ in range(2)]
        assert [vector.result(30)[0] for vector in waiting] == [3.0, 3.0]


def test_prompts(encoder: TextEncoder) -> None:
    with Batcher(encoder) as batcher:
        given: list[dict[str, Any]] = [{"prompt_name": "query"}, {"prompt": "any: "}, {}]
        for how in given:
            np.testing.assert_array_equal(
                batcher.encode("word", **how), encoder.encode("word", **how)
            )


def test_bad_texts_are_the_senders_and_nobody_elses(encoder: TextEncoder) -> None:
    with Batcher(encoder, wait_ms=30) as batcher:
        good = batcher.submit("word")
        with pytest.raises(ValueError, match="text 0 is not Unicode"):
            batcher.submit("half \ud83d")
        with pytest.raises(TypeError, match="expected a str, got int"):
            batcher.submit(7)  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="'qeury'"):
            batcher.submit("word", prompt_name="qeury")
        assert good.result(60)[0] == 3


def test_an_error_of_the_engine_reaches_whoever_waits(
    encoder: TextEncoder, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(_: TokenBatch) -> npt.NDArray[np.float32]:
        raise MemoryError("the GPU is full")

    with Batcher(encoder) as batcher:
        working = engine.encode
        monkeypatch.setattr(engine, "encode", broken)
        with pytest.raises(MemoryError, match="the GPU is full"):
            batcher.encode("word")
        monkeypatch.setattr(engine, "encode", working)
        assert batcher.encode("word").shape == (2,)


def test_one_that_was_cancelled_is_left_out(encoder: TextEncoder, engine: Engine) -> None:
    engine.go.clear()
    with Batcher(encoder, wait_ms=0) as batcher:
        batcher.submit("one")
        assert engine.started.wait(60)
        dropped, kept = batcher.submit("two"), batcher.submit("three")
        assert dropped.cancel()
        engine.go.set()
        kept.result(60)
    assert engine.shapes == [(1, 3), (1, 3)]


def test_closing_computes_what_came_and_takes_no_more(encoder: TextEncoder) -> None:
    batcher = Batcher(encoder, wait_ms=60_000)
    waiting = batcher.submit("word")
    batcher.close()
    assert waiting.done()
    batcher.close()
    with pytest.raises(RuntimeError, match="the batcher is closed"):
        batcher.submit("word")


@pytest.mark.parametrize("how", [{"wait_ms": -1}, {"max_tokens": 0}])
def test_settings_that_cannot_be(how: dict[str, int], encoder: TextEncoder) -> None:
    make: Callable[..., Batcher] = Batcher
    with pytest.raises(ValueError, match=next(iter(how))):
        make(encoder, **how)
