"""ONNX Runtime on a real GPU: bound buffers, CUDA graphs by bucket, threads, what is refused."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from pipeline.contracts import OnnxModel, SourceModel
from pipeline.engines import cuda
from pipeline.engines.bound import BoundSession
from pipeline.engines.buckets import MOST_TOKENS
from pipeline.engines.cuda import Cuda
from pipeline.engines.onnxruntime import OnnxRuntimeEncoder, has_cuda, open_session
from pipeline.engines.slots import SLOTS
from pipeline.errors import MeasureError
from pipeline.measure.speed.grid import full_batch
from pipeline.measure.speed.profile import count_kernels
from pipeline.runtime.encoder import TextEncoder
from pipeline.text.tokens import Tokenizer, TokenRow
from pipeline.vectors import row_cosines

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not has_cuda(), reason="ONNX Runtime has no CUDA here"),
    pytest.mark.skipif(cuda.missing() is not None, reason=str(cuda.missing())),
]

SHAPES = [(1, 4), (1, 4), (1, 4), (3, 16), (3, 16), (4, 16), (17, 40), (17, 40), (64, 48)]


@pytest.fixture(scope="module")
def encoder(tiny_fused: OnnxModel) -> OnnxRuntimeEncoder:
    """It on the GPU."""
    opened = OnnxRuntimeEncoder(tiny_fused.path, cuda=True)
    assert opened.device == "cuda"
    assert opened.lanes == SLOTS
    return opened


@pytest.fixture(scope="module")
def reference(tiny_fp32: OnnxModel) -> OnnxRuntimeEncoder:
    """The fp32 graph on the CPU."""
    return OnnxRuntimeEncoder(tiny_fp32.path)


@pytest.fixture(scope="module")
def rows(tiny_tokenizer: Tokenizer, evaluation_texts: Sequence[str]) -> Sequence[TokenRow]:
    """Real tokens to fill batches with."""
    return tiny_tokenizer.rows(evaluation_texts)


def test_every_shape_with_and_without_a_graph(
    encoder: OnnxRuntimeEncoder, reference: OnnxRuntimeEncoder, rows: Sequence[TokenRow]
) -> None:
    for shape in SHAPES:
        batch = full_batch(rows, *shape)
        observed = encoder.encode(batch)
        assert np.isfinite(observed).all()
        assert row_cosines(reference.encode(batch), observed).min() >= 0.9999, shape


def test_text_of_all_lengths_and_paddings(
    encoder: OnnxRuntimeEncoder,
    reference: OnnxRuntimeEncoder,
    tiny_tokenizer: Tokenizer,
    tiny_source: SourceModel,
    evaluation_texts: Sequence[str],
) -> None:
    def through(engine: OnnxRuntimeEncoder) -> TextEncoder:
        return TextEncoder(
            tiny_tokenizer,
            engine,
            dimension=tiny_source.dimension,
            prompts={},
            default_prompt=None,
        )

    expected = through(reference).encode(evaluation_texts)
    for size in (None, 1, 7):
        observed = through(encoder).encode(evaluation_texts, size)
        assert row_cosines(expected, observed).min() >= 0.9999


def test_graphs_are_captured_and_replayed(tiny_fused: OnnxModel, rows: Sequence[TokenRow]) -> None:
    session = open_session(tiny_fused.path, cuda=True, graphs=True)
    bound = BoundSession(session, Cuda(), graphs=True, tokens=MOST_TOKENS)
    first = [bound.encode(full_batch(rows, 2, n)) for n in range(2, 20)]
    assert bound.graphs == 0
    for _ in range(3):
        for n, expected in zip(range(2, 20), first, strict=True):
            again = bound.encode(full_batch(rows, 2, n))
            assert row_cosines(expected, again).min() > 0.99999
    assert bound.graphs == 18


def test_threads(encoder: OnnxRuntimeEncoder, rows: Sequence[TokenRow]) -> None:
    batches = [full_batch(rows, 1 + n % 5, 1 + n % 40) for n in range(200)]
    alone = [encoder.encode(batch) for batch in batches]
    with ThreadPoolExecutor(8) as pool:
        for expected, observed in zip(alone, pool.map(encoder.encode, batches), strict=True):
            assert row_cosines(expected, observed).min() > 0.99999


def test_everything_that_computes_runs_on_the_gpu(
    tiny_fused: OnnxModel, rows: Sequence[TokenRow]
) -> None:
    seen = count_kernels(tiny_fused.path, full_batch(rows, 4, 32))
    assert seen["operators"]["Attention"] == 2
    assert not {"Attention", "MatMul", "SkipLayerNormalization"} & set(seen["elsewhere"])


def test_more_memory_than_there_is(tiny_fused: OnnxModel) -> None:
    session = open_session(tiny_fused.path, cuda=True)
    with pytest.raises(MeasureError, match="CUDA: cudaMalloc: "):
        BoundSession(session, Cuda(), graphs=False, tokens=1 << 40)


def test_a_graph_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"nothing")
    with pytest.raises(MeasureError, match="ONNX Runtime cannot open"):
        OnnxRuntimeEncoder(tmp_path / "model.onnx", cuda=True)
