import re
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
import pytest

from pipeline.config import HighPrecision, NumericType, PrecisionConfig
from pipeline.contracts import GRAPH_OUTPUT, Graphs, OnnxModel, SourceModel
from pipeline.engines.onnxruntime import OnnxRuntimeEncoder, open_session
from pipeline.errors import ConfigError, QuantizeError
from pipeline.graph.files import constant, load_graph, save_graph
from pipeline.graph.gemms import find_gemm_groups
from pipeline.quant.condition import smoothing
from pipeline.stages.quantize import quantize
from pipeline.text.tokens import TokenBatch, Tokenizer
from pipeline.vectors import row_cosines

FORMS = ["portable", "buildable"]

FloatArray = npt.NDArray[np.float32]
Run = Callable[[Sequence[str], PrecisionConfig], Graphs]


@pytest.fixture(params=FORMS)
def int8_nodes(request: pytest.FixtureRequest, tiny_int8: Graphs) -> list[ir.Node]:
    """The nodes of the int8 graph, in both of its forms."""
    model: OnnxModel = getattr(tiny_int8, request.param)
    return list(load_graph(model).graph)


@pytest.fixture
def run(tiny_fp32: OnnxModel, tiny_source: SourceModel, tmp_path: Path) -> Run:
    """Return a function that quantizes the tiny model with a config."""

    def quantize_with(texts: Sequence[str], config: PrecisionConfig) -> Graphs:
        return quantize(tiny_fp32, tiny_source, config, texts, tmp_path / "out")

    return quantize_with


def of_type(nodes: Sequence[ir.Node], op_type: str) -> list[ir.Node]:
    return [node for node in nodes if node.op_type == op_type]


def producer_type(value: ir.Value | None) -> str | None:
    producer = value.producer() if value is not None else None
    return producer.op_type if producer is not None else None


def activations(nodes: Sequence[ir.Node]) -> list[ir.Node]:
    """Return the DequantizeLinear nodes of activations; weights have one without a Quantize."""
    dequantize = of_type(nodes, "DequantizeLinear")
    return [node for node in dequantize if producer_type(node.inputs[0]) == "QuantizeLinear"]


# What is in the graph


def test_both_inputs_of_every_linear_gemm_are_quantized(int8_nodes: list[ir.Node]) -> None:
    inputs = [[producer_type(v) for v in n.inputs] for n in of_type(int8_nodes, "MatMul")]
    assert inputs.count(["DequantizeLinear"] * 2) == 12
    assert sum("DequantizeLinear" in types for types in inputs) == 12


def test_gemms_of_a_group_share_one_activation_scale(int8_nodes: list[ir.Node]) -> None:
    readers = [len(node.outputs[0].uses()) for node in activations(int8_nodes)]
    assert readers == [3, 1, 1, 1] * 2


def test_dequantize_reads_the_scale_and_zero_point_of_its_quantize(
    int8_nodes: list[ir.Node],
) -> None:
    for node in activations(int8_nodes):
        quantized = node.inputs[0]
        assert quantized is not None
        producer = quantized.producer()
        assert producer is not None
        assert list(node.inputs[1:]) == list(producer.inputs[1:])


@pytest.mark.parametrize(
    ("form", "dtype", "zero_point"), [("buildable", np.int8, 0), ("portable", np.uint8, 128)]
)
def test_activations_are_per_tensor_with_the_zero_point_of_the_form(
    form: str, dtype: type, zero_point: int, tiny_int8: Graphs
) -> None:
    quantize_nodes = of_type(list(load_graph(getattr(tiny_int8, form)).graph), "QuantizeLinear")
    assert len(quantize_nodes) == 8
    for node in quantize_nodes:
        scale, zero = constant(node.inputs[1]), constant(node.inputs[2])
        assert scale is not None
        assert zero is not None
        assert scale.shape == zero.shape == ()
        assert scale > 0
        assert zero.dtype == np.dtype(dtype)
        assert int(zero) == zero_point


def test_weights_are_int8_per_output_channel_around_zero(int8_nodes: list[ir.Node]) -> None:
    gemms = of_type(int8_nodes, "MatMul")
    producers = [value.producer() for node in gemms for value in node.inputs if value is not None]
    weights = [n for n in producers if n is not None and constant(n.inputs[0]) is not None]
    assert len(weights) == 12
    for node in weights:
        integers, scales, zeros = (constant(value) for value in node.inputs)
        assert integers is not None
        assert scales is not None
        assert zeros is not None
        assert node.attributes["axis"].as_int() == 1
        assert integers.dtype == zeros.dtype == np.int8
        assert scales.shape == zeros.shape == (integers.shape[1],)
        assert (scales > 0).all()
        assert not zeros.any()
        assert np.abs(integers.astype(int)).max() == 127


def test_the_graph_holds_no_fp32_copy_of_a_quantized_weight(tiny_int8: Graphs) -> None:
    for form in FORMS:
        initializers = load_graph(getattr(tiny_int8, form)).graph.initializers
        shapes = {name: v.shape for name, v in initializers.items() if v.shape is not None}
        matrices = [name for name, s in shapes.items() if len(s) == 2 and s[1] != 1]
        large = [n for n in matrices if initializers[n].dtype is not ir.DataType.INT8]
        large = [n for n in large if initializers[n].dtype is not ir.DataType.INT64]
        assert all("embeddings" in name for name in large)
        assert len(large) == 2
        wide = ir.DataType.FLOAT if form == "portable" else ir.DataType.FLOAT16
        assert {initializers[n].dtype for n in large} == {wide}


def test_both_forms_carry_the_same_scales(tiny_int8: Graphs) -> None:
    scales = []
    for form in FORMS:
        values = load_graph(getattr(tiny_int8, form)).graph.initializers.items()
        found = {
            n.removesuffix(".fp16").removesuffix(".column"): constant(v)
            for n, v in values
            if ".scale" in n
        }
        scales.append({n: np.ravel(np.asarray(a, np.float64)).tolist() for n, a in found.items()})
    assert len(scales[0]) > 12
    assert scales[0] == scales[1]


def test_engines_compute_in_fp16_between_quantized_gemms(tiny_int8: Graphs) -> None:
    nodes = list(load_graph(tiny_int8.buildable).graph)
    for node in of_type(nodes, "DequantizeLinear"):
        scale = constant(node.inputs[1])
        assert scale is not None
        assert scale.dtype == np.float16
    assert tiny_int8.buildable.outputs[0].dtype == "float"


def test_nothing_quantizes_between_a_gemm_and_its_gelu(int8_nodes: list[ir.Node]) -> None:
    gelus = of_type(int8_nodes, "Gelu")
    assert len(gelus) == 2
    for gelu in gelus:
        assert gelu.inputs[0] is not None
        add = gelu.inputs[0].producer()
        assert add is not None
        assert add.op_type == "Add"
        assert "MatMul" in [producer_type(value) for value in add.inputs]


def test_only_linear_gemms_read_quantized_tensors(int8_nodes: list[ir.Node]) -> None:
    readers = {
        use.node.op_type
        for node in of_type(int8_nodes, "DequantizeLinear")
        for use in node.outputs[0].uses()
    }
    assert readers - {"Gather"} == {"MatMul"}
    for node in of_type(int8_nodes, "LayerNormalization") + of_type(int8_nodes, "Softmax"):
        assert "DequantizeLinear" not in [producer_type(value) for value in node.inputs]


# What it computes


@pytest.mark.slow
def test_signed_and_unsigned_forms_compute_the_same(
    run: Run, calibration_texts: Sequence[str], evaluation_batch: TokenBatch
) -> None:
    config = PrecisionConfig(name="int8", type=NumericType.int8, high_precision=HighPrecision.fp32)
    graphs = run(calibration_texts, config)
    seen = []
    for form in FORMS:
        session = open_session(getattr(graphs, form).path, optimize=False)
        names = [value.name for value in session.get_inputs()]
        seen.append(session.run([GRAPH_OUTPUT], evaluation_batch.feed(names))[0])
    np.testing.assert_allclose(seen[0], seen[1], atol=1e-5)


@pytest.mark.many
@pytest.mark.parametrize("form", FORMS)
def test_int8_stays_close_to_fp32(
    form: str, tiny_fp32: OnnxModel, tiny_int8: Graphs, evaluation_batch: TokenBatch
) -> None:
    expected = OnnxRuntimeEncoder(tiny_fp32.path).encode(evaluation_batch)
    observed = OnnxRuntimeEncoder(getattr(tiny_int8, form).path).encode(evaluation_batch)
    cosines = row_cosines(expected, observed)
    assert cosines.min() >= 0.99
    assert not np.array_equal(expected, observed)


@pytest.mark.slow
def test_a_text_has_the_same_vector_alone_batched_and_padded(
    tiny_int8: Graphs, tiny_tokenizer: Tokenizer, evaluation_texts: Sequence[str]
) -> None:
    encoder = OnnxRuntimeEncoder(tiny_int8.portable.path)
    rows = tiny_tokenizer.rows(evaluation_texts)
    alone = np.concatenate([encoder.encode(tiny_tokenizer.pad([row])) for row in rows])
    batched = encoder.encode(tiny_tokenizer.pad(rows))
    padded = np.concatenate([encoder.encode(tiny_tokenizer.pad([r], length=48)) for r in rows])
    assert row_cosines(alone, batched).min() >= 0.99999
    assert row_cosines(alone, padded).min() >= 0.99999


# What the stage says and refuses


def test_the_result_describes_itself(
    tiny_int8: Graphs, tiny_fp32: OnnxModel, calibration_texts: Sequence[str]
) -> None:
    described = dict(tiny_int8.quantization or {})
    assert (described["gemms"], described["gemms_int8"]) == (12, 12)
    assert described["smoothing"] == {"explicit": 2, "layer_norm": 4, "value_projection": 2}
    assert described["calibration"]["sentences"] == len(calibration_texts)
    assert described["calibration"]["length_tokens"]["max"] == 48
    for model in (tiny_int8.portable, tiny_int8.buildable):
        assert model.precision is NumericType.int8
        assert model.source_sha256 == tiny_fp32.sha256
        assert (model.inputs, model.outputs) == (tiny_fp32.inputs, tiny_fp32.outputs)


@pytest.mark.slow
def test_the_same_text_gives_the_same_bytes(
    tiny_int8: Graphs, run: Run, calibration_texts: Sequence[str]
) -> None:
    config = PrecisionConfig(name="int8", type=NumericType.int8, smoothing_alphas=[0.9])
    again = run(calibration_texts, config)
    assert again.portable.sha256 == tiny_int8.portable.sha256
    assert again.buildable.sha256 == tiny_int8.buildable.sha256


@pytest.mark.slow
def test_no_more_sentences_are_used_than_configured(
    run: Run, calibration_texts: Sequence[str]
) -> None:
    config = PrecisionConfig(name="int8", type=NumericType.int8, calibration_sentences=5)
    assert (run(calibration_texts, config).quantization or {})["calibration"]["sentences"] == 5


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("smoothing_alphas", [0.9, -0.1]),
        ("smoothing_alphas", [1.1]),
        ("smoothing_alphas", [float("nan")]),
        ("smoothing_alphas", []),
        ("activation_scales", []),
        ("calibration_sentences", 0),
        ("held_back", 0.6),
        ("split_share", -0.1),
        ("widen_share", 1.1),
        ("reconstruction_steps", -1),
        ("spans_per_sentence", -1),
        ("vocabulary_spans_per_sentence", -1),
    ],
)
def test_settings_out_of_range_are_config_errors(key: str, value: object, run: Run) -> None:
    config = PrecisionConfig(name="int8", type=NumericType.int8)
    setattr(config, key, value)
    with pytest.raises(ConfigError, match=re.escape(f"precision.{key}={value}")):
        run(["a text"], config)


@pytest.mark.parametrize(
    ("nodes", "said"),
    [
        ("sentence_embedding = Cast <to = 1> (input_ids)", r"in the graph; use precision=fp16"),
        (
            "x = Cast <to = 1> (input_ids) axis = Constant <value_ints = [1]> ()"
            " y = Unsqueeze(x, axis) sentence_embedding = Conv(y, w)",
            r"in the graph but 1 Conv \(.*\), which stay as they are; use precision=fp16",
        ),
    ],
)
def test_a_graph_without_a_linear_gemm_is_refused(
    nodes: str, said: str, tiny_source: SourceModel, tmp_path: Path
) -> None:
    graph = ir.from_onnx_text(
        f"""<ir_version: 8, opset_import: ["" : 20]>
        graph (int64[b,s] input_ids) => (float[b,s] sentence_embedding)
        <float[1,1,1] w = {{1}}> {{ {nodes} }}"""
    )
    path = tmp_path / "model.onnx"
    model = save_graph(graph, path, precision=NumericType.fp32, source_sha256="")
    config = PrecisionConfig(name="int8", type=NumericType.int8)
    with pytest.raises(QuantizeError, match=f"no MatMul with a constant weight {said}"):
        quantize(model, tiny_source, config, ["a text"], tmp_path / "out")


@pytest.mark.slow
def test_a_fold_that_changes_the_function_is_refused(
    run: Run, calibration_texts: Sequence[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(smoothing, "set_weight", lambda *args: None)
    with pytest.raises(QuantizeError, match="smoothing changed the fp32 function"):
        run(calibration_texts, PrecisionConfig(name="int8", type=NumericType.int8))


def test_optimum_graphs_quantize_as_well(
    tiny_optimum_fp32: OnnxModel,
    tiny_source: SourceModel,
    quantize_tiny: Callable[..., Graphs],
    evaluation_batch: TokenBatch,
) -> None:
    graphs = quantize_tiny(tiny_optimum_fp32, tiny_source)
    assert (graphs.quantization or {})["gemms_int8"] == 12
    expected = OnnxRuntimeEncoder(tiny_optimum_fp32.path).encode(evaluation_batch)
    observed = OnnxRuntimeEncoder(graphs.portable.path).encode(evaluation_batch)
    assert row_cosines(expected, observed).min() >= 0.99
    assert not find_gemm_groups(load_graph(graphs.portable).graph)
