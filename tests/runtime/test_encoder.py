"""encoder: what a service asks of encode, against Sentence Transformers and under load."""

import io
import random
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from rich.console import Console

from pipeline.config import NumericType
from pipeline.contracts import OnnxModel, SourceModel
from pipeline.engines import Encoder
from pipeline.engines.onnxruntime import OnnxRuntimeEncoder
from pipeline.runtime import windows as module
from pipeline.runtime.encoder import TextEncoder
from pipeline.runtime.feed import AHEAD, tokenizing_threads
from pipeline.runtime.output import quantize_embeddings
from pipeline.text.tokens import TokenBatch, Tokenizer
from pipeline.vectors import row_cosines

MIXED = [f"{'many ' * (i % 23)}words in text {i}" for i in range(150)]
PRECISIONS = ["float32", "int8", "uint8", "binary", "ubinary"]


class Counted:
    """Stands for an engine: a text's vector is its token ids, its length and the batch's size."""

    name, device = "counted", "cpu"
    max_tokens: int | None = None
    bucketed = False

    def __init__(self) -> None:
        self.batches: list[int] = []

    def encode(self, batch: TokenBatch) -> npt.NDArray[np.float32]:
        self.batches.append(len(batch.input_ids))
        lengths = batch.attention_mask.sum(axis=1)
        third = [ids[length - 2] for ids, length in zip(batch.input_ids, lengths, strict=True)]
        return np.stack([lengths, batch.input_ids[:, 1], third], axis=1).astype(np.float32)


@pytest.fixture
def counted(tiny_tokenizer: Tokenizer) -> TextEncoder:
    """An encoder that computes nothing."""
    return TextEncoder(tiny_tokenizer, Counted(), dimension=3, prompts={}, default_prompt=None)


@pytest.fixture(scope="module")
def make_encoder(
    tiny_source: SourceModel, tiny_fp32: OnnxModel, tiny_tokenizer: Tokenizer
) -> Callable[..., TextEncoder]:
    """Return a function that gives the tiny model's encoder."""

    def make(engine: str = "onnxruntime", **prompts: Any) -> TextEncoder:
        opened: Encoder
        if engine == "openvino":
            pytest.importorskip("openvino")
            from pipeline.engines.openvino import OpenVINOEncoder

            opened = OpenVINOEncoder(tiny_fp32.path, NumericType.fp32)
        else:
            opened = OnnxRuntimeEncoder(tiny_fp32.path)
        given = {"prompts": {}, "default_prompt": None} | prompts
        return TextEncoder(tiny_tokenizer, opened, dimension=tiny_source.dimension, **given)

    return make


@pytest.fixture(scope="module")
def ours(make_encoder: Callable[..., TextEncoder]) -> TextEncoder:
    """The tiny model on ONNX Runtime."""
    return make_encoder()


def reference(source: SourceModel, **settings: Any) -> Any:
    from sentence_transformers import SentenceTransformer

    return SentenceTransformer(str(source.path), device="cpu", **settings)


@pytest.fixture(scope="module")
def theirs(tiny_source: SourceModel) -> Any:
    """The tiny Sentence Transformer."""
    return reference(tiny_source)


# As Sentence Transformers.


@pytest.mark.many
@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("dimension", [None, 1, 20, 32])
def test_truncates_then_normalizes(
    dimension: int | None, normalize: bool, ours: TextEncoder, theirs: Any
) -> None:
    how: dict[str, Any] = {"truncate_dim": dimension, "normalize_embeddings": normalize}
    seen, expected = ours.encode(MIXED, **how), theirs.encode(MIXED, **how)
    assert seen.dtype == expected.dtype == np.float32
    assert seen.flags.c_contiguous
    np.testing.assert_allclose(seen, expected, atol=2e-5)


@pytest.mark.many
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("dimension", [None, 20])
def test_precision(precision: Any, dimension: int | None, ours: TextEncoder, theirs: Any) -> None:
    how: dict[str, Any] = {"precision": precision, "truncate_dim": dimension}
    seen, expected = ours.encode(MIXED, **how), theirs.encode(MIXED, **how)
    assert seen.dtype == expected.dtype
    assert seen.shape == expected.shape
    if precision == "float32":
        np.testing.assert_allclose(seen, expected, atol=2e-5)
    elif "binary" in precision:
        bits = np.unpackbits(seen.view(np.uint8) ^ expected.view(np.uint8))
        assert bits.mean() < 0.001
    else:
        apart = np.abs(seen.astype(int) - expected.astype(int))
        assert apart.max() <= 1
        assert apart.mean() < 0.01


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("steps", ["own", "ranges", "calibration"])
def test_quantizes_the_same_floats_to_the_same_bits(precision: Any, steps: str) -> None:
    from sentence_transformers.util import quantize_embeddings as quantize_theirs

    generator = np.random.default_rng(0)
    floats = generator.normal(size=(200, 21)).astype(np.float32)
    floats[:, 3] = 0.25  # a dimension without a range
    other = generator.normal(size=(300, 21)).astype(np.float32)
    given: dict[str, Any] = {
        "own": {},
        "ranges": {"ranges": np.stack((other.min(axis=0), other.max(axis=0)))},
        "calibration": {"calibration_embeddings": other},
    }[steps]
    seen = quantize_embeddings(floats, precision, **given)
    expected = quantize_theirs(floats, precision, **given)
    assert seen.dtype == expected.dtype
    np.testing.assert_array_equal(seen, expected)


def test_float16(ours: TextEncoder) -> None:
    halves = ours.encode(MIXED[:5], precision="float16")
    assert halves.dtype == np.float16
    np.testing.assert_array_equal(halves, ours.encode(MIXED[:5]).astype(np.float16))


@pytest.mark.many
@pytest.mark.parametrize(
    "prompts",
    [
        {},
        {"query": "query: ", "document": "text: "},
        {"query": "query: ", "passage": "passage: "},
        {"corpus": "corpus: "},
    ],
)
@pytest.mark.parametrize("default", [False, True])
@pytest.mark.parametrize("given", [{}, {"prompt": "any: "}, {"prompt_name": "query"}])
def test_queries_and_documents(
    prompts: dict[str, str],
    default: bool,
    given: dict[str, Any],
    make_encoder: Callable[..., TextEncoder],
    tiny_source: SourceModel,
) -> None:
    name = next(iter(prompts), None) if default else None
    mine = make_encoder(prompts=prompts, default_prompt=name)
    other = reference(tiny_source, prompts=prompts or None, default_prompt_name=name)
    for method in ("encode", "encode_query", "encode_document"):
        seen = getattr(mine, method)(MIXED[:4], **given)
        np.testing.assert_allclose(seen, getattr(other, method)(MIXED[:4], **given), atol=2e-5)


# Streams and windows.


def test_a_stream_gives_the_same_vectors_in_order(ours: TextEncoder) -> None:
    vectors = list(ours.encode_iter(iter(MIXED), batch_size=8, truncate_dim=20))
    np.testing.assert_allclose(vectors, ours.encode(MIXED, truncate_dim=20), atol=2e-5)
    assert list(ours.encode_iter([])) == []


def test_a_stream_is_read_a_few_windows_ahead(
    counted: TextEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "WINDOW_TEXTS", 50)
    read = 0

    def texts() -> Iterator[str]:
        nonlocal read
        while True:
            read += 1
            yield "word " * (read % 40)

    vectors = counted.encode_iter(texts(), batch_size=4)
    assert read == 0
    lengths = [vector[0] for vector in islice(vectors, 120)]
    assert lengths == [2 + i % 40 for i in range(1, 121)]
    assert 120 < read <= 50 * (3 + tokenizing_threads("cpu") + AHEAD) + 1


def test_windows_change_nothing(counted: TextEncoder, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = counted.encode(MIXED)
    monkeypatch.setattr(module, "WINDOW_TEXTS", 16)
    for texts in (MIXED, iter(MIXED), tuple(MIXED), np.array(MIXED), dict.fromkeys(MIXED)):
        np.testing.assert_array_equal(counted.encode(texts, 5), expected)
    assert len(counted.encode(MIXED[:16], 5)) == 16
    assert len(counted.encode(MIXED[:17], 5)) == 17


def test_a_window_of_long_texts_ends_early_but_fills_its_batches(
    counted: TextEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "WINDOW_CHARACTERS", 1000)
    counted.encode(["word " * 100] * 100, batch_size=10)
    engine = counted.engine
    assert isinstance(engine, Counted)
    assert engine.batches == [10] * 10
    sizes = [len(window.texts) for window in module.windows(iter(["x" * 500] * 90), 10, 10**6)]
    assert sizes == [40, 40, 10]
    sizes = [len(window.texts) for window in module.windows(iter(["x" * 10] * 250), 1, 10**6)]
    assert sizes == [100, 100, 50]


def test_of_a_text_too_long_to_matter_only_the_beginning_is_kept() -> None:
    (window,) = module.windows(iter(["x" * 5000]), 1, 100)
    assert window.texts == ["x" * 101]


def test_streams_need_ranges_for_int8(ours: TextEncoder) -> None:
    with pytest.raises(ValueError, match=r"'int8' in a stream: give ranges.*\[2, 20\]"):
        ours.encode_iter(MIXED, precision="int8", truncate_dim=20)
    floats = ours.encode(MIXED)
    ranges = np.stack((floats.min(axis=0), floats.max(axis=0)))
    vectors = np.stack(list(ours.encode_iter(MIXED, precision="int8", ranges=ranges)))
    apart = vectors.astype(int) - ours.encode(MIXED, precision="int8").astype(int)
    assert np.abs(apart).max() <= 1


# Many at once.


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_threads(engine: str, make_encoder: Callable[..., TextEncoder]) -> None:
    encoder = make_encoder(engine)
    alone = encoder.encode(MIXED)
    start = threading.Barrier(16)

    def work(seed: int) -> float:
        start.wait()
        picker, lowest = random.Random(seed), 1.0
        for _ in range(6):
            chosen = picker.sample(range(len(MIXED)), picker.choice([1, 3, 40]))
            vectors = encoder.encode([MIXED[i] for i in chosen], picker.choice([1, 8, 32]))
            lowest = min(lowest, float(row_cosines(vectors, alone[chosen]).min()))
        return lowest

    with ThreadPoolExecutor(16) as pool:
        assert min(pool.map(work, range(16))) > 0.99999


# What goes wrong.


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["good", 1], r"text 1: expected a str, got int"),
        (["good", None], r"text 1: expected a str, got NoneType"),
        ([b"bytes"], r"text 0: expected a str, got bytes"),
        (b"bytes", r"expected a str, got int"),
    ],
)
def test_not_text(texts: Any, message: str, counted: TextEncoder) -> None:
    with pytest.raises(TypeError, match=message):
        counted.encode(texts)
    with pytest.raises(TypeError, match=message):
        list(counted.encode_iter(iter(texts)))
    engine = counted.engine
    assert isinstance(engine, Counted)
    assert engine.batches == []


def test_a_str_is_no_stream(counted: TextEncoder) -> None:
    with pytest.raises(TypeError, match="use encode"):
        counted.encode_iter("text")


def test_a_lone_surrogate_is_named(counted: TextEncoder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "WINDOW_TEXTS", 4)
    texts = [*MIXED[:6], "half \ud83d an emoji"]
    with pytest.raises(ValueError, match=r"text 6 is not Unicode: a lone surrogate, '\\ud83d'"):
        counted.encode(texts, 2)
    with pytest.raises(ValueError, match="text 6 is not Unicode"):
        counted.encode(texts, 2, prompt="prompt: ")


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"batch_size": 0}, "batch_size .* got 0"),
        ({"truncate_dim": 0}, "truncate_dim=0: expected 1 to 3"),
        ({"truncate_dim": 4}, "truncate_dim=4: expected 1 to 3"),
        ({"precision": "int4"}, "'int4'.*float16"),
        ({"ranges": np.zeros((2, 3))}, "ranges are for int8 and uint8"),
        ({"precision": "int8", "ranges": np.zeros((2, 4))}, r"\[2, 4\].*\[2, 3\]"),
        ({"prompt_name": "qeury"}, "'qeury'"),
    ],
)
def test_what_cannot_be_is_said_before_anything_runs(
    how: dict[str, Any], message: str, counted: TextEncoder
) -> None:
    with pytest.raises(ValueError, match=message):
        counted.encode(MIXED, **how)
    with pytest.raises(ValueError, match=message):
        counted.encode_iter(MIXED, **how)
    engine = counted.engine
    assert isinstance(engine, Counted)
    assert engine.batches == []


def test_integers_are_not_quantized_again() -> None:
    with pytest.raises(ValueError, match="must be floats, got int8"):
        quantize_embeddings(np.zeros((2, 3), np.int8), "binary")


@pytest.mark.parametrize("precision", [*PRECISIONS, "float16"])
def test_no_texts(precision: Any, ours: TextEncoder) -> None:
    vectors = ours.encode([], precision=precision)
    some = ours.encode(MIXED[:2], precision=precision)
    assert vectors.shape == (0, some.shape[1])
    assert vectors.dtype == some.dtype


def test_steps_from_few_embeddings_are_warned_of(
    ours: TextEncoder, caplog: pytest.LogCaptureFixture
) -> None:
    ours.encode(MIXED[:99], precision="int8")
    assert "int8 steps from 99 embeddings" in caplog.text
    caplog.clear()
    ours.encode(MIXED, precision="int8")
    assert caplog.text == ""


# Progress.


@pytest.mark.parametrize("texts", [MIXED, iter(MIXED)])
def test_progress_on_a_terminal_only(
    texts: Sequence[str], counted: TextEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    screen = io.StringIO()
    monkeypatch.setattr("pipeline.progress.console", Console(file=screen, force_terminal=True))
    counted.encode(texts, show_progress_bar=True)
    assert "150/" in screen.getvalue()
    log = io.StringIO()
    monkeypatch.setattr("pipeline.progress.console", Console(file=log))
    counted.encode(MIXED, show_progress_bar=True)
    assert log.getvalue().strip() == ""
