"""OpenVINO reads the same model.onnx and gives the same vectors."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import pytest

from pipeline.config import NumericType
from pipeline.contracts import Graphs, OnnxModel, SourceModel
from pipeline.engines.onnxruntime import OnnxRuntimeEncoder
from pipeline.errors import MeasureError
from pipeline.runtime.invariance import measure_invariance
from pipeline.stages.cast import cast_bf16
from pipeline.stages.optimize import optimize
from pipeline.text.datasets import Dataset
from pipeline.text.tokens import TokenBatch, Tokenizer, TokenRow, bucket
from pipeline.vectors import row_cosines

pytest.importorskip("openvino")
from pipeline.engines.openvino import OpenVINOEncoder


@pytest.fixture(scope="module")
def fp32(
    tiny_fp32: OnnxModel,
    tiny_source: SourceModel,
    evaluation_texts: Sequence[str],
    tmp_path_factory: pytest.TempPathFactory,
) -> OnnxModel:
    """The tiny model's fp32 graph as it is published."""
    graphs = Graphs(portable=tiny_fp32, buildable=tiny_fp32)
    out_dir = tmp_path_factory.mktemp("optimize") / "out"
    return optimize(graphs, tiny_source, evaluation_texts, out_dir).portable


def test_fp32_is_fp32(fp32: OnnxModel, evaluation_batch: TokenBatch) -> None:
    ours = OpenVINOEncoder(fp32.path, NumericType.fp32).encode(evaluation_batch)
    theirs = OnnxRuntimeEncoder(fp32.path).encode(evaluation_batch)
    assert ours.dtype == np.float32
    np.testing.assert_allclose(ours, theirs, atol=5e-6)


@pytest.mark.slow
def test_int8_agrees_with_onnxruntime(tiny_int8: Graphs, evaluation_batch: TokenBatch) -> None:
    path = tiny_int8.portable.path
    ours = OpenVINOEncoder(path, NumericType.int8).encode(evaluation_batch)
    assert row_cosines(ours, OnnxRuntimeEncoder(path).encode(evaluation_batch)).min() > 0.999


@pytest.mark.slow
def test_int8_of_a_text_is_the_same_alone_padded_and_in_any_batch(
    tiny_int8: Graphs, tiny_tokenizer: Tokenizer, sample: Dataset
) -> None:
    encoder = OpenVINOEncoder(tiny_int8.portable.path, NumericType.int8)
    seen = measure_invariance(encoder, tiny_tokenizer, tiny_tokenizer.rows(sample.evaluation))
    assert seen.n == 32
    assert seen.move <= 1e-6


WIDTH = """
<ir_version: 8, opset_import: ["": 18]>
width (int64[batch, sequence] input_ids) => (float[batch, 1] sentence_embedding) {
    same = Equal(input_ids, input_ids)
    ones = Cast<to = 1>(same)
    axis = Constant<value = int64[1] {1}>()
    sentence_embedding = ReduceSum(ones, axis)
}
"""
"""A graph whose embedding is how many tokens it was given, padding counted."""


@pytest.mark.parametrize(
    ("precision", "widths"), [("int8", [16, 16, 32]), ("bf16", [16, 16, 32]), ("fp32", [3, 16, 17])]
)
def test_what_is_rounded_is_computed_in_whole_vectors(
    precision: str, widths: list[int], tiny_tokenizer: Tokenizer, tmp_path: Path
) -> None:
    onnx.save(onnx.parser.parse_model(WIDTH), tmp_path / "model.onnx")
    encoder = OpenVINOEncoder(tmp_path / "model.onnx", NumericType(precision))
    rows = [TokenRow(ids=(7,) * n, type_ids=(0,) * n) for n in (3, 16, 17)]
    assert [float(encoder.encode(tiny_tokenizer.pad([row]))[0, 0]) for row in rows] == widths
    assert encoder.encode(tiny_tokenizer.pad(rows)).tolist() == [[widths[-1]]] * 3


@pytest.mark.slow
def test_bf16_keeps_what_the_graph_keeps_natively_or_not(
    tiny_fp32: OnnxModel,
    tiny_source: SourceModel,
    calibration_texts: Sequence[str],
    evaluation_batch: TokenBatch,
    tmp_path: Path,
) -> None:
    graphs = cast_bf16(tiny_fp32, tiny_source, calibration_texts, tmp_path / "out")
    exact = OnnxRuntimeEncoder(tiny_fp32.path).encode(evaluation_batch)
    ours = OpenVINOEncoder(graphs.portable.path, NumericType.bf16).encode(evaluation_batch)
    assert 0.999 < row_cosines(ours, exact).min() < 0.9999999


@pytest.mark.many
@pytest.mark.parametrize("rows", [1, 16, 17, 33])
def test_rows_padded_to_a_bucket_are_not_returned(
    rows: int, fp32: OnnxModel, tiny_tokenizer: Tokenizer, evaluation_texts: Sequence[str]
) -> None:
    tokenized = tiny_tokenizer.rows(list(evaluation_texts)[:rows])
    assert len(tokenized) == rows
    batch = tiny_tokenizer.pad(tokenized, bucketed=True)
    encoder = OpenVINOEncoder(fp32.path, NumericType.fp32)
    expected = OnnxRuntimeEncoder(fp32.path).encode(tiny_tokenizer.pad(tokenized))
    np.testing.assert_allclose(encoder.encode(batch), expected, atol=5e-6)


@pytest.mark.slow
def test_threads_agree(fp32: OnnxModel, tiny_tokenizer: Tokenizer, sample: object) -> None:
    encoder = OpenVINOEncoder(fp32.path, NumericType.fp32)
    batches = [tiny_tokenizer.pad(tiny_tokenizer.rows(["word " * n])) for n in range(1, 30)]
    alone = [encoder.encode(batch) for batch in batches]
    with ThreadPoolExecutor(8) as pool:
        for seen, expected in zip(pool.map(encoder.encode, batches * 4), alone * 4, strict=True):
            np.testing.assert_array_equal(seen, expected)


def test_not_a_graph(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(b"no graph")
    with pytest.raises(MeasureError, match=r"OpenVINO cannot open .*model\.onnx"):
        OpenVINOEncoder(path, NumericType.fp32)


def test_buckets_are_few_and_near() -> None:
    sizes = [bucket(n) for n in range(1, 513)]
    assert sizes[:16] == list(range(1, 17))
    assert all(n <= size < n * 1.125 for n, size in enumerate(sizes, start=1))
    assert len(set(sizes)) == 56
    assert {32, 64, 128, 256, 384, 512} <= set(sizes)
