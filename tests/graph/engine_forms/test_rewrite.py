"""Rewrites for engines: the same function, in forms that compile to fewer kernels.

That they are exact for every family is in tests/test_families.py.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
import pytest
from architectures import ARCHITECTURES, LAYERS

from pipeline.config import Exporter, NumericType, PrecisionConfig
from pipeline.contracts import Graphs, OnnxModel, Profile, SourceModel
from pipeline.engines.gpu import is_installed
from pipeline.engines.layers.graph import PACKED
from pipeline.engines.layers.summary import bytes_per_token, summarize
from pipeline.engines.onnxruntime import OnnxRuntimeEncoder
from pipeline.engines.plan_of_graph import plan_of_graph
from pipeline.graph.engine_forms.drop_expands import drop_expands
from pipeline.graph.engine_forms.drop_token_count import drop_token_count
from pipeline.graph.engine_forms.joined_by_head import order_joined_by_head
from pipeline.graph.engine_forms.pack_projections import pack_projections
from pipeline.graph.engine_forms.rewrite import rewrite_for_engines
from pipeline.graph.files import add_initializer, constant, load_graph, prune
from pipeline.graph.gemms import find_gemm_groups
from pipeline.quant.choose.candidates import write_candidate
from pipeline.stages.cast import cast
from pipeline.stages.quantize import quantize
from pipeline.text.source_text import open_tokenizer
from pipeline.text.tokens import TokenBatch
from pipeline.vectors import row_cosines

ExportEncoder = Callable[[str, Exporter], tuple[SourceModel, OnnxModel]]
SHORT = Profile(min=(1, 1), opt=(8, 32), max=(16, 48))
rtx = pytest.mark.skipif(not is_installed("tensorrt_rtx"), reason="tensorrt_rtx is not installed")


def vectors(graph: ir.Model, batch: TokenBatch, path: Path) -> npt.NDArray[np.float32]:
    ir.save(graph, path)
    return OnnxRuntimeEncoder(path).encode(batch)


def count(graph: ir.Model, *operators: str) -> int:
    return sum(node.op_type in operators for node in graph.graph)


def packed(graph: ir.Model) -> list[ir.Node]:
    return [node for node in graph.graph if PACKED in node.metadata_props]


@pytest.fixture(scope="module")
def tiny_fp16(
    tiny_fp32: OnnxModel,
    tiny_source: SourceModel,
    calibration_texts: Sequence[str],
    tmp_path_factory: pytest.TempPathFactory,
) -> OnnxModel:
    return cast(tiny_fp32, tiny_source, calibration_texts, tmp_path_factory.mktemp("half") / "out")


@pytest.mark.parametrize("name", [name for name in ARCHITECTURES if name != "modernbert"])
def test_query_key_and_value_are_one_gemm(name: str, export_encoder: ExportEncoder) -> None:
    graph = load_graph(export_encoder(name, Exporter.torch)[1])
    before = {node.name for node in graph.graph if node.op_type == "MatMul"}
    assert len(pack_projections(graph.graph)) == LAYERS
    prune(graph)
    gemms = packed(graph)
    assert len(gemms) == LAYERS
    named = [name for node in gemms for name in node.metadata_props[PACKED].split()]
    assert len(set(named)) == 3 * LAYERS
    assert before - set(named) == {n.name for n in graph.graph if n.op_type == "MatMul"} - {
        node.name for node in gemms
    }


def test_rotary_attention_is_left_alone(export_encoder: ExportEncoder) -> None:
    graph = load_graph(export_encoder("modernbert", Exporter.torch)[1])
    assert len(pack_projections(graph.graph)) == 0


@rtx
def test_a_joined_gemm_in_int8_keeps_its_integers(
    export_encoder: ExportEncoder, evaluation_texts: Sequence[str], tmp_path: Path
) -> None:
    """ModernBERT: TensorRT-RTX dequantizes its weight as exported, and not where it is by head."""
    source, model = export_encoder("modernbert", Exporter.torch)
    tokenizer = open_tokenizer(source)
    batch = tokenizer.pad(tokenizer.rows(evaluation_texts))
    names = [g.name for found in find_gemm_groups(load_graph(model).graph) for g in found.gemms]
    candidate = write_candidate(model, names, (), tmp_path / "int8.onnx")
    graph = load_graph(candidate)
    assert order_joined_by_head(graph.graph) == LAYERS
    assert order_joined_by_head(graph.graph) == 0
    prune(graph)
    before = OnnxRuntimeEncoder(candidate.path).encode(batch)
    after = vectors(graph, batch, tmp_path / "by_head.onnx")
    np.testing.assert_allclose(after, before, atol=1e-3)

    joined = {"node_linear", "node_linear_4"}
    for path, kind in ((candidate.path, "fp16"), (tmp_path / "by_head.onnx", "int8")):
        found = plan_of_graph(path, "8.9", profile=SHORT)
        types = {name: layer.type for layer in found.layers for name in layer.gemms}
        assert {types[name] for name in joined} == {kind}
        assert {kind for name, kind in types.items() if name not in joined} == {"int8"}


@pytest.mark.slow
def test_packed_in_every_precision(
    tiny_fp32: OnnxModel,
    tiny_fp16: OnnxModel,
    tiny_int8: Graphs,
    evaluation_batch: TokenBatch,
    tmp_path: Path,
) -> None:
    for model, least in ((tiny_fp32, 0.999999), (tiny_fp16, 0.999), (tiny_int8.buildable, 0.999)):
        graph = load_graph(model)
        quantizers = count(graph, "QuantizeLinear")
        assert len(pack_projections(graph.graph)) == LAYERS
        prune(graph)
        assert count(graph, "QuantizeLinear") == quantizers
        before = OnnxRuntimeEncoder(model.path).encode(evaluation_batch)
        after = vectors(graph, evaluation_batch, tmp_path / "packed.onnx")
        assert row_cosines(before, after).min() >= least


def test_the_arrays_in_floating_point_stay_the_models_own(tiny_fp32: OnnxModel) -> None:
    """So that the bundle holds them once (``graph.shared_weights``)."""
    graph = load_graph(tiny_fp32)
    large = {name for name, value in graph.graph.initializers.items() if _elements(value) >= 256}
    rewrite_for_engines(graph)
    now = {name for name, value in graph.graph.initializers.items() if _elements(value) >= 256}
    assert now == large


def _elements(value: ir.Value) -> int:
    array = constant(value)
    return 0 if array is None else array.size


def test_a_gemm_without_bias_and_one_with_are_packed(
    tiny_fp32: OnnxModel, evaluation_batch: TokenBatch, tmp_path: Path
) -> None:
    graph = load_graph(tiny_fp32)
    bias = next(v for n, v in graph.graph.initializers.items() if n.endswith("key.bias"))
    add = next(iter(bias.uses())).node
    product = next(v for v in add.inputs if v is not bias)
    assert product is not None
    add.outputs[0].replace_all_uses_with(product)  # a key's bias drops out of the softmax
    prune(graph)
    assert len(pack_projections(graph.graph)) == LAYERS
    expected = OnnxRuntimeEncoder(tiny_fp32.path).encode(evaluation_batch)
    observed = vectors(graph, evaluation_batch, tmp_path / "packed.onnx")
    np.testing.assert_allclose(observed, expected, atol=2e-6)


def test_projections_of_two_tensors_are_left_alone(tiny_fp32: OnnxModel) -> None:
    graph = load_graph(tiny_fp32)
    value = next(v for n, v in graph.graph.initializers.items() if n.endswith("value.bias"))
    add = next(iter(value.uses())).node
    gemm = next(v.producer() for v in add.inputs if v is not None and v.producer() is not None)
    assert gemm is not None
    assert gemm.inputs[0] is not None
    same = ir.node("Identity", [gemm.inputs[0]])
    graph.graph.insert_before(gemm, same)
    gemm.replace_input_with(0, same.outputs[0])
    assert len(pack_projections(graph.graph)) == LAYERS - 1


def test_one_projection_in_another_precision_is_left_alone(tiny_int8: Graphs) -> None:
    graph = load_graph(tiny_int8.buildable)
    gemm = next(
        node
        for node in graph.graph
        if node.op_type == "MatMul"
        and (weight := node.inputs[1]) is not None
        and (weight.name or "").endswith("query.weight.dequantized")
    )
    weight = gemm.inputs[1]
    assert weight is not None
    assert weight.shape is not None
    whole = np.ones(weight.shape.numpy(), np.float16)
    gemm.replace_input_with(1, add_initializer(graph.graph, "plain", whole))
    assert len(pack_projections(graph.graph)) == LAYERS - 1


def test_nothing_is_repeated_for_what_broadcasts(export_encoder: ExportEncoder) -> None:
    graph = load_graph(export_encoder("mpnet", Exporter.torch)[1])
    scores = [n for n in graph.graph if n.op_type == "Softmax"]
    assert drop_expands(graph.graph) == 1
    prune(graph)
    for softmax in scores:
        total = softmax.inputs[0].producer() if softmax.inputs[0] is not None else None
        assert total is not None
        makers = [value.producer() for value in total.inputs if value is not None]
        assert all(maker is None or maker.op_type != "Expand" for maker in makers)


def test_an_expand_that_gives_the_shape_stays() -> None:
    """Two operands that both have to be repeated: without the Expand the result is smaller."""
    kind = ir.TensorType(ir.DataType.FLOAT)
    small, other = (ir.Value(name=n, shape=ir.Shape(["n", 1]), type=kind) for n in "ab")
    target = ir.Value(name="target", shape=ir.Shape([2]), type=ir.TensorType(ir.DataType.INT64))
    expand = ir.node("Expand", [small, target])
    expand.outputs[0].shape = ir.Shape(["n", 4])
    add = ir.node("Add", [expand.outputs[0], other])
    graph = ir.Graph([small, other, target], add.outputs, nodes=[expand, add])
    assert drop_expands(graph) == 0


def test_the_count_of_tokens_cancels_in_a_normalized_mean(
    tiny_fp32: OnnxModel, evaluation_batch: TokenBatch, tmp_path: Path
) -> None:
    graph = load_graph(tiny_fp32)
    drop_expands(graph.graph)  # the norm is read as it is, not repeated
    divisions = count(graph, "Div")
    assert drop_token_count(graph.graph) == 1
    prune(graph)
    assert count(graph, "Div") == divisions - 1
    expected = OnnxRuntimeEncoder(tiny_fp32.path).encode(evaluation_batch)
    observed = vectors(graph, evaluation_batch, tmp_path / "sum.onnx")
    np.testing.assert_allclose(observed, expected, atol=1e-6)


def test_a_mean_that_is_read_otherwise_stays(tiny_fp32: OnnxModel) -> None:
    graph = load_graph(tiny_fp32)
    drop_expands(graph.graph)
    norm = next(node for node in graph.graph if node.op_type == "ReduceL2")
    mean = norm.inputs[0]
    assert mean is not None
    other = ir.node("Identity", [mean])
    other.outputs[0].name, other.outputs[0].type = "mean", mean.type
    graph.graph.append(other)
    graph.graph.outputs.append(other.outputs[0])
    assert drop_token_count(graph.graph) == 0


def test_tokens_lie_sequence_first_between_embeddings_and_pooling(
    tiny_fp32: OnnxModel, tiny_int8: Graphs
) -> None:
    for model in (tiny_fp32, tiny_int8.buildable):
        graph = load_graph(model)
        assert rewrite_for_engines(graph)["sequence_first"] == LAYERS
        turns = [list(node.attributes["perm"].as_ints()) for node in graph.graph if is_turn(node)]
        # In and out once; in a block query, value and what they give, and the key another way.
        assert sorted(turns) == sorted([[1, 0, 2]] * (2 + 3 * LAYERS) + [[1, 2, 0]] * LAYERS)


def is_turn(node: ir.Node) -> bool:
    return node.op_type == "Transpose"


def test_one_block_that_stays_keeps_tokens_batch_first(
    tiny_fp32: OnnxModel, evaluation_batch: TokenBatch, tmp_path: Path
) -> None:
    graph = load_graph(tiny_fp32)
    softmax = [node for node in graph.graph if node.op_type == "Softmax"][-1]
    same = ir.node("Identity", [softmax.outputs[0]])
    softmax.outputs[0].replace_all_uses_with(same.outputs[0])
    same.replace_input_with(0, softmax.outputs[0])
    graph.graph.insert_after(softmax, same)
    made = rewrite_for_engines(graph)
    assert (made["pack_projections"], made["sequence_first"]) == (LAYERS - 1, 0)
    expected = OnnxRuntimeEncoder(tiny_fp32.path).encode(evaluation_batch)
    observed = vectors(graph, evaluation_batch, tmp_path / "kept.onnx")
    np.testing.assert_allclose(observed, expected, atol=2e-6)


@pytest.mark.slow
def test_attention_in_int8_stays_batch_first(
    tiny_fp32: OnnxModel,
    tiny_source: SourceModel,
    calibration_texts: Sequence[str],
    evaluation_batch: TokenBatch,
    tmp_path: Path,
) -> None:
    """Its Q/DQ pairs have to stay on what the GEMMs of attention read."""
    config = PrecisionConfig(
        name="int8", type=NumericType.int8, smoothing_alphas=[0.8], quantize_attention=True
    )
    out = tmp_path / "out"
    model = quantize(tiny_fp32, tiny_source, config, calibration_texts[:40], out).buildable
    graph = load_graph(model)
    made = rewrite_for_engines(graph)
    assert (made["pack_projections"], made["sequence_first"]) == (LAYERS, 0)
    expected = OnnxRuntimeEncoder(model.path).encode(evaluation_batch)
    observed = vectors(graph, evaluation_batch, tmp_path / "attention.onnx")
    assert row_cosines(expected, observed).min() >= 0.999


@pytest.mark.slow
@rtx
def test_kernels_of_a_block_in_int8(tiny_int8: Graphs, tmp_path: Path) -> None:
    graph = load_graph(tiny_int8.buildable)
    rewrite_for_engines(graph)
    ir.save(graph, tmp_path / "engine.onnx")
    paths = (tiny_int8.buildable.path, tmp_path / "engine.onnx")
    before, after = (summarize(plan_of_graph(path, "8.9", profile=SHORT), 0) for path in paths)
    assert after.kernels_per_block == 9
    assert before.kernels_per_block is not None
    assert before.kernels_per_block >= 12
    assert (before.moves, after.moves) == (LAYERS, 0)
    assert before.gemms == after.gemms == {"int8": 6 * LAYERS}
    assert after.attention_fused == LAYERS


@pytest.mark.slow
@rtx
def test_kernels_of_the_real_model(
    minilm_fp32: OnnxModel,
    minilm_source: SourceModel,
    calibration_texts: Sequence[str],
    tmp_path: Path,
) -> None:
    """TensorRT-RTX 1.7.1 for 8.9: 66 kernels become 52, none of them for a bias alone."""
    half = cast(minilm_fp32, minilm_source, calibration_texts, tmp_path / "half")
    graph = load_graph(half)
    rewrite_for_engines(graph)
    ir.save(graph, tmp_path / "engine.onnx")
    plans = [plan_of_graph(path, "8.9") for path in (half.path, tmp_path / "engine.onnx")]
    before, after = (summarize(plan, 0) for plan in plans)
    assert before.kernels - after.kernels >= 14
    assert after.kernels <= 52
    assert before.gemms == after.gemms == {"fp16": 36}
    assert after.attention_fused == 6
    assert after.gemms_with_epilogue > before.gemms_with_epilogue
    moved = [bytes_per_token(plan.of_profile(0), 32, 128) for plan in plans]
    assert moved[1] < moved[0]
