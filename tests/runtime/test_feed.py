"""feed: the same vectors in order, few windows in memory, and no thread left, whatever happens."""

import os
import signal
import threading
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from pipeline.contracts import OnnxModel, SourceModel
from pipeline.engines import SideBySide
from pipeline.engines.onnxruntime import OnnxRuntimeEncoder
from pipeline.runtime import feed as module
from pipeline.runtime import windows
from pipeline.runtime.encoder import TextEncoder
from pipeline.runtime.feed import AHEAD, BATCH_TOKENS, tokenizing_threads
from pipeline.text.tokens import TokenBatch, Tokenizer

TEXTS = [f"{'many ' * (i % 23)}words in text {i}" for i in range(400)]
WINDOW = 32


class Lanes:
    """Stands for an engine: a text's vector is its length and its first tokens."""

    name, device = "lanes", "cpu"
    max_tokens: int | None = 256
    bucketed = False

    def __init__(self, lanes: int, seconds: float = 0.0) -> None:
        self.lanes = lanes
        self.seconds = seconds
        self.shapes: list[tuple[int, ...]] = []
        self.inside = self.most = 0
        self.lock = threading.Lock()

    def encode(self, batch: TokenBatch) -> npt.NDArray[np.float32]:
        lengths = batch.attention_mask.sum(axis=1)
        ids = batch.input_ids[np.arange(len(lengths)), lengths - 2]
        return np.stack([lengths, ids, batch.token_type_ids.sum(axis=1)], axis=1).astype(np.float32)

    def encode_beside(self, batch: TokenBatch) -> npt.NDArray[np.float32]:
        with self.lock:
            self.shapes.append(batch.input_ids.shape)
            self.inside += 1
            self.most = max(self.most, self.inside)
        time.sleep(self.seconds)
        with self.lock:
            self.inside -= 1
        return self.encode(batch)


@pytest.fixture(autouse=True)
def _small_windows(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Windows of few texts, and no thread that outlives its call."""
    monkeypatch.setattr(windows, "WINDOW_TEXTS", WINDOW)
    yield
    assert not [t.name for t in threading.enumerate() if t.name.startswith(("encode", "tokenize"))]


def make(tokenizer: Tokenizer, engine: Lanes) -> TextEncoder:
    return TextEncoder(tokenizer, engine, dimension=3, prompts={}, default_prompt=None)


def expected(tokenizer: Tokenizer) -> npt.NDArray[np.float32]:
    engine = Lanes(1)
    return np.concatenate([engine.encode(tokenizer.pad(tokenizer.rows([t]))) for t in TEXTS])


@pytest.mark.many
@pytest.mark.parametrize("lanes", [1, 2, 5])
@pytest.mark.parametrize("batch_size", [None, 1, 7, 500])
@pytest.mark.parametrize("count", [0, 1, WINDOW - 1, WINDOW, WINDOW + 1, len(TEXTS)])
def test_the_same_vectors_in_order(
    lanes: int, batch_size: int | None, count: int, tiny_tokenizer: Tokenizer
) -> None:
    encoder = make(tiny_tokenizer, Lanes(lanes))
    wanted = expected(tiny_tokenizer)[:count]
    np.testing.assert_array_equal(encoder.encode(TEXTS[:count], batch_size), wanted)
    streamed = list(encoder.encode_iter(iter(TEXTS[:count]), batch_size))
    np.testing.assert_array_equal(np.reshape(streamed, (-1, 3)), wanted)


def test_batches_run_side_by_side_but_no_more_than_the_engine_has_lanes(
    tiny_tokenizer: Tokenizer,
) -> None:
    engine = Lanes(3, seconds=0.005)
    make(tiny_tokenizer, engine).encode(TEXTS)
    assert engine.most == 3


@pytest.mark.slow
@pytest.mark.parametrize("most", [64, 256, None])
def test_without_a_number_a_batch_is_as_many_tokens_as_the_engine_takes(
    most: int | None, tiny_tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(windows, "WINDOW_TEXTS", 4096)
    engine = Lanes(2)
    engine.max_tokens = most
    make(tiny_tokenizer, engine).encode(TEXTS * 11)
    limit = most or BATCH_TOKENS
    assert max(rows * tokens for rows, tokens in engine.shapes) <= limit
    full = [rows * tokens > 0.6 * limit for rows, tokens in engine.shapes]
    assert np.mean(full) > 0.8
    engine.shapes.clear()
    make(tiny_tokenizer, engine).encode(TEXTS * 11, 2)
    assert {rows for rows, _ in engine.shapes} <= {1, 2}


def test_few_windows_are_in_memory(tiny_tokenizer: Tokenizer) -> None:
    """However slow the engine is, texts are not read far ahead of it."""
    go = threading.Event()
    read: list[int] = []

    class Stuck(Lanes):
        def encode_beside(self, batch: TokenBatch) -> npt.NDArray[np.float32]:
            assert go.wait(60)
            return self.encode(batch)

    def texts() -> Iterator[str]:
        for i in range(100 * WINDOW):
            read.append(i)
            yield "word"

    def consume() -> None:
        list(make(tiny_tokenizer, Stuck(2)).encode_iter(texts()))

    consumer = threading.Thread(target=consume)
    consumer.start()
    limit = WINDOW * (tokenizing_threads("cpu") + AHEAD) + 1
    deadline = time.monotonic() + 30
    while len(read) < limit and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.1)
    assert len(read) == limit
    go.set()
    consumer.join(60)
    assert len(read) == 100 * WINDOW


@pytest.mark.parametrize("lanes", [1, 3])
def test_an_error_of_the_engine_is_the_callers(lanes: int, tiny_tokenizer: Tokenizer) -> None:
    class Broken(Lanes):
        def encode_beside(self, batch: TokenBatch) -> npt.NDArray[np.float32]:
            if len(self.shapes) > 10:
                raise MemoryError("the GPU is full")
            return super().encode_beside(batch)

    encoder = make(tiny_tokenizer, Broken(lanes))
    with pytest.raises(MemoryError, match="the GPU is full"):
        encoder.encode(TEXTS, 4)


def test_what_comes_before_a_bad_text_is_given_out(tiny_tokenizer: Tokenizer) -> None:
    texts = [*TEXTS[: 3 * WINDOW + 5], "half \ud83d", *TEXTS]
    stream = make(tiny_tokenizer, Lanes(2)).encode_iter(texts)
    assert len(list(islice(stream, 3 * WINDOW))) == 3 * WINDOW
    with pytest.raises(ValueError, match=f"text {3 * WINDOW + 5} is not Unicode"):
        next(stream)


def test_an_error_of_the_texts_is_the_callers(tiny_tokenizer: Tokenizer) -> None:
    def texts() -> Iterator[str]:
        yield from TEXTS[:100]
        raise OSError("the disk is gone")

    with pytest.raises(OSError, match="the disk is gone"):
        make(tiny_tokenizer, Lanes(2)).encode(texts())


def test_a_stream_left_early_ends_its_threads(tiny_tokenizer: Tokenizer) -> None:
    stream = make(tiny_tokenizer, Lanes(2)).encode_iter(TEXTS)
    assert next(stream)[0] == 6
    assert [t for t in threading.enumerate() if t.name.startswith("encode")]
    del stream


def test_ctrl_c_ends_it(tiny_tokenizer: Tokenizer) -> None:
    class Interrupted(Lanes):
        def encode_beside(self, batch: TokenBatch) -> npt.NDArray[np.float32]:
            if len(self.shapes) == 10:
                os.kill(os.getpid(), signal.SIGINT)
            return super().encode_beside(batch)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            make(tiny_tokenizer, Interrupted(2, seconds=0.02)).encode(TEXTS * 5, 4)
    finally:
        signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize(
    ("device", "setting", "threads"), [("cpu", "false", 2), ("cuda", "", 4), ("cuda", "0", 8)]
)
def test_how_many_threads_tokenize(
    device: str, setting: str, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "usable_cores", lambda: 16)
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", setting)
    assert tokenizing_threads(device) == threads


def test_onnx_runtime_gives_the_same_bits_on_one_core_a_batch(
    tiny_source: SourceModel, tiny_fp32: OnnxModel, tiny_tokenizer: Tokenizer, tmp_path: Path
) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(tiny_fp32.path.read_bytes())
    engine = OnnxRuntimeEncoder(path, threads=2)
    assert isinstance(engine, SideBySide)
    assert engine.lanes == 2
    batch = tiny_tokenizer.pad(tiny_tokenizer.rows(TEXTS[:40]))
    np.testing.assert_array_equal(engine.encode_beside(batch), engine.encode(batch))


def test_a_graph_that_was_replaced_is_not_opened_again(
    tiny_fp32: OnnxModel, tiny_tokenizer: Tokenizer, tmp_path: Path
) -> None:
    """What was checked when the bundle was loaded is what runs."""
    path = tmp_path / "model.onnx"
    path.write_bytes(tiny_fp32.path.read_bytes())
    engine = OnnxRuntimeEncoder(path, threads=2)
    batch = tiny_tokenizer.pad(tiny_tokenizer.rows(TEXTS[:4]))
    before = engine.encode(batch)
    path.write_bytes(b"something else")
    np.testing.assert_array_equal(engine.encode_beside(batch), before)
