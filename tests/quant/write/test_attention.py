"""Attention's own GEMMs in int8: which they are, what is written, and when it is refused."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from architectures import ARCHITECTURES, LAYERS, MAX_LENGTH
from simulated import run_unoptimized

from pipeline.config import (
    EngineConfig,
    Exporter,
    HighPrecision,
    NumericType,
    PrecisionConfig,
)
from pipeline.contracts import Graphs, OnnxModel, SourceModel
from pipeline.engines.gpu import is_installed
from pipeline.errors import ConfigError, QuantizeError
from pipeline.graph.files import constant, load_graph
from pipeline.graph.observe import run_observed, unpadded_batches
from pipeline.quant.calibrate.attention import find_attention_gemms, scale_attention
from pipeline.stages.build import build, make_profiles
from pipeline.stages.quantize import quantize
from pipeline.text.tokens import TokenBatch, Tokenizer
from pipeline.vectors import row_cosines

CASES = [(name, Exporter.torch) for name in ARCHITECTURES]
CASES += [(name, Exporter.optimum) for name in ("bert", "mpnet", "distilbert", "modernbert")]

ExportEncoder = Callable[[str, Exporter], tuple[SourceModel, OnnxModel]]


def int8(**settings: object) -> PrecisionConfig:
    config = PrecisionConfig(
        name="int8", type=NumericType.int8, quantize_attention=True, smoothing_alphas=[0.9]
    )
    for name, value in settings.items():
        setattr(config, name, value)
    return config


@pytest.fixture(scope="module")
def quantized(
    tiny_fp32: OnnxModel,
    tiny_source: SourceModel,
    calibration_texts: Sequence[str],
    tmp_path_factory: pytest.TempPathFactory,
) -> Graphs:
    """The tiny model with its attention in int8."""
    out_dir = tmp_path_factory.mktemp("attention") / "out"
    return quantize(tiny_fp32, tiny_source, int8(), calibration_texts, out_dir)


def producer(value: ir.Value | None) -> ir.Node | None:
    return value.producer() if value is not None else None


@pytest.mark.parametrize(("name", "exporter"), CASES, ids=lambda v: getattr(v, "value", v))
def test_two_gemms_a_layer_are_found(
    name: str, exporter: Exporter, export_encoder: ExportEncoder
) -> None:
    graph = load_graph(export_encoder(name, exporter)[1]).graph
    found = find_attention_gemms(graph)
    computed = [
        node
        for node in graph
        if node.op_type == "MatMul" and all(constant(value) is None for value in node.inputs)
    ]
    assert len(found) == 2 * LAYERS
    assert set(found) <= set(computed)
    before_softmax = [(producer(node.inputs[0]) or node).op_type != "Softmax" for node in found]
    assert before_softmax == [True, False] * LAYERS


@pytest.mark.parametrize(
    "text",
    [
        "y = MatMul(x, w)",
        "t = Transpose <perm = [0, 2, 1]> (x) y = MatMul(x, t)",
        "t = Transpose <perm = [0, 2, 1]> (x) s = MatMul(x, t) r = Relu(s) y = Softmax(r)",
        """t = Transpose <perm = [0, 2, 1]> (x) s = MatMul(x, t) p = Softmax(s)
        q = Exp(s) y = Add(p, q)""",
    ],
    ids=["constant weight", "no softmax", "another operator between", "scores read elsewhere"],
)
def test_other_matmuls_are_left_alone(text: str) -> None:
    model = ir.from_onnx_text(
        f"""<ir_version: 8, opset_import: ["" : 20]>
        graph (float[b,4,4] x) => (float y) <float[1,1] w = {{1}}> {{ {text} }}"""
    )
    assert find_attention_gemms(model.graph) == []


def test_steps_cover_every_calibrated_value(
    tiny_fp32: OnnxModel, tiny_tokenizer: Tokenizer, calibration_texts: Sequence[str]
) -> None:
    graph = load_graph(tiny_fp32)
    nodes = find_attention_gemms(graph.graph)
    batches = list(unpadded_batches(tiny_tokenizer, tiny_tokenizer.rows(calibration_texts[::4])))
    assert len(batches) > 3
    scaled = scale_attention(graph, batches)
    tensors = [value for node in nodes for value in node.inputs if value is not None]
    seen = list(run_observed(graph, tensors, batches))
    steps = [step for gemm in scaled for step in gemm.steps]
    for tensor, step in zip(tensors, steps, strict=True):
        largest = max(np.abs(values[tensor.name or ""]).max() for values in seen)
        assert largest <= 127 * step * (1 + 1e-6)
        assert largest >= 127 * step * (1 - 2e-3)
        assert np.float16(step) == step


def test_both_inputs_of_every_attention_gemm_are_quantized(quantized: Graphs) -> None:
    assert (quantized.quantization or {})["attention_gemms_int8"] == 4
    assert (quantized.quantization or {})["gemms_int8"] == 12
    for model, zero in ((quantized.portable, 128), (quantized.buildable, 0)):
        nodes = list(load_graph(model).graph)
        matmuls = [node for node in nodes if node.op_type == "MatMul"]
        inputs = Counter(
            tuple(getattr(producer(v), "op_type", "") for v in n.inputs) for n in matmuls
        )
        assert inputs == {("DequantizeLinear", "DequantizeLinear"): 16}
        quantizes = [node for node in nodes if node.op_type == "QuantizeLinear"]
        assert len(quantizes) == 8 + 8
        assert {int(np.asarray(constant(node.inputs[2]))) for node in quantizes} == {zero}


@pytest.mark.slow
def test_the_forms_agree_and_stay_close_to_fp32(
    quantized: Graphs, tiny_fp32: OnnxModel, evaluation_batch: TokenBatch
) -> None:
    exact, unsigned, signed_fp16 = (
        run_unoptimized(model.path, evaluation_batch)
        for model in (tiny_fp32, quantized.portable, quantized.buildable)
    )
    assert row_cosines(unsigned, signed_fp16).min() >= 0.9995
    assert row_cosines(exact, unsigned).min() >= 0.999
    assert row_cosines(exact, unsigned).min() < 0.99999


@pytest.mark.slow
def test_signed_and_unsigned_attention_compute_the_same(
    tiny_fp32: OnnxModel,
    tiny_source: SourceModel,
    calibration_texts: Sequence[str],
    evaluation_batch: TokenBatch,
    tmp_path: Path,
) -> None:
    config = int8(high_precision=HighPrecision.fp32)
    graphs = quantize(tiny_fp32, tiny_source, config, calibration_texts, tmp_path / "out")
    signed, unsigned = (
        run_unoptimized(model.path, evaluation_batch)
        for model in (graphs.buildable, graphs.portable)
    )
    np.testing.assert_allclose(signed, unsigned, atol=1e-5)


@pytest.mark.parametrize(("max_length", "refused"), [(512, False), (513, True)])
def test_beyond_512_tokens_it_is_refused_with_the_key_to_change(
    max_length: int, refused: bool, tiny_fp32: OnnxModel, tiny_source: SourceModel, tmp_path: Path
) -> None:
    source = replace(tiny_source, max_length=max_length)
    expected = ConfigError if refused else QuantizeError
    message = (
        r"precision\.quantize_attention=true: tiny takes 513 tokens.*model\.max_length=512"
        if refused
        else "no text to calibrate on"
    )
    with pytest.raises(expected, match=message):
        quantize(tiny_fp32, source, int8(), [], tmp_path / "out")


@pytest.mark.slow
@pytest.mark.skipif(not is_installed("tensorrt_rtx"), reason="tensorrt_rtx is not installed")
def test_tensorrt_rtx_builds_int8_attention(quantized: Graphs, tmp_path: Path) -> None:
    config = EngineConfig()
    profiles = make_profiles(config, max_length=MAX_LENGTH)[:1]
    engine = build(quantized.buildable, "tensorrt_rtx", profiles, config, tmp_path, tmp_path)
    assert engine.path.stat().st_size > 0
    assert engine.layer_types["int8"] > 0


def test_nan_in_attention_is_refused(tiny_fp32: OnnxModel, evaluation_batch: TokenBatch) -> None:
    graph = load_graph(tiny_fp32)
    name = next(name for name in graph.graph.initializers if name.endswith("query.bias"))
    value = graph.graph.initializers[name]
    array = constant(value)
    assert array is not None
    value.const_value = ir.tensor(np.full_like(array, np.nan), name=name)
    with pytest.raises(QuantizeError, match="holds NaN or infinite values"):
        scale_attention(graph, [evaluation_batch])
