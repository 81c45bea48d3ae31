from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir as ir
import pytest
from graph_types import infer_types
from onnx.reference import ReferenceEvaluator

from pipeline.config import NumericType
from pipeline.contracts import GRAPH_OUTPUT, OnnxModel, SourceModel
from pipeline.engines.onnxruntime import OnnxRuntimeEncoder
from pipeline.errors import CastError
from pipeline.graph.files import constant, load_graph, save_graph
from pipeline.graph.gemms import find_gemm_groups
from pipeline.graph.half import cast_to_half
from pipeline.stages.cast import cast
from pipeline.text.tokens import TokenBatch, Tokenizer, TokenRow
from pipeline.vectors import row_cosines

FLOAT, HALF = onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16
FP32_OPS = {"LayerNormalization", "Softmax", "ReduceSum", "ReduceL2"}
CastPlanted = Callable[[Callable[[Any], None]], tuple[OnnxModel, OnnxModel]]
SOURCES = [
    "tiny_fp32",
    "tiny_optimum_fp32",
    pytest.param("outlier_fp32", marks=pytest.mark.slow),
]


def plant_large_weight(bert: Any) -> None:
    """Put a weight beyond fp16 where small activations keep its products small."""
    bert.encoder.layer[0].attention.output.LayerNorm.weight[4] *= 1e-4
    bert.encoder.layer[0].attention.output.LayerNorm.bias[4] *= 1e-4
    bert.encoder.layer[0].intermediate.dense.weight[9, 4] = 80_000.0


def plant_large_embedding(bert: Any) -> None:
    """Put a value beyond fp16 into the embedding of a token that no text has."""
    bert.embeddings.word_embeddings.weight[1, 0] = -80_000.0


@pytest.fixture(scope="module", params=SOURCES)
def pair(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    tiny_source: SourceModel,
    calibration_texts: Sequence[str],
) -> tuple[OnnxModel, OnnxModel]:
    """An fp32 graph and its fp16 form: both exporters, and outlier channels."""
    model: OnnxModel = request.getfixturevalue(request.param)
    out_dir = tmp_path_factory.mktemp("cast") / "out"
    return model, cast(model, tiny_source, calibration_texts, out_dir)


@pytest.fixture
def cast_planted(
    make_tiny: Callable[..., Path],
    resolve_dir: Callable[[Path], SourceModel],
    export_torch: Callable[[SourceModel], OnnxModel],
    calibration_texts: Sequence[str],
    tmp_path: Path,
) -> CastPlanted:
    """Return a function that alters the tiny model and gives its fp32 graph and fp16 form."""

    def run(plant: Callable[[Any], None]) -> tuple[OnnxModel, OnnxModel]:
        source = resolve_dir(make_tiny(plant))
        fp32 = export_torch(source)
        return fp32, cast(fp32, source, calibration_texts, tmp_path / "out")

    return run


@pytest.fixture
def fp32(pair: tuple[OnnxModel, OnnxModel]) -> OnnxModel:
    return pair[0]


@pytest.fixture
def fp16(pair: tuple[OnnxModel, OnnxModel]) -> OnnxModel:
    return pair[1]


class HalfArithmetic:
    """ONNX's reference evaluator: fp16 nodes really compute in fp16.

    ONNX Runtime's CPU provider has no fp16 kernels. It computes those nodes in fp32, where nothing
    overflows.
    """

    def __init__(self, model: OnnxModel) -> None:
        self._evaluator: Any = ReferenceEvaluator(str(model.path))
        self._inputs = [spec.name for spec in model.inputs]

    def encode(self, batch: TokenBatch) -> npt.NDArray[np.float32]:
        result: npt.NDArray[np.float32] = self._evaluator.run(None, batch.feed(self._inputs))[0]
        return result


@pytest.fixture
def encoder(fp16: OnnxModel) -> HalfArithmetic:
    return HalfArithmetic(fp16)


# The types in the graph


def test_gemms_compute_in_fp16(fp16: OnnxModel) -> None:
    graph, types = infer_types(fp16)
    gemms = [node for node in graph.node if node.op_type == "MatMul"]
    assert len(gemms) == 16
    assert {types[name] for node in gemms for name in (*node.input, *node.output)} == {HALF}
    groups = find_gemm_groups(load_graph(fp16).graph)
    weights = [constant(gemm.node.inputs[1]) for group in groups for gemm in group.gemms]
    assert [w.dtype for w in weights if w is not None] == [np.float16] * 12


def test_norms_softmax_and_reductions_compute_in_fp32(fp16: OnnxModel) -> None:
    graph, types = infer_types(fp16)
    kept = [node for node in graph.node if node.op_type in FP32_OPS]
    assert {node.op_type for node in kept} == FP32_OPS
    for node in kept:
        operands = node.input if node.op_type == "LayerNormalization" else node.input[:1]
        assert {types[name] for name in (*operands, *node.output)} == {FLOAT}, node.name


def test_pooling_and_normalization_are_fp32_to_the_end(fp16: OnnxModel) -> None:
    graph, types = infer_types(fp16)
    producer = {name: node for node in graph.node for name in node.output}
    pending, seen = [GRAPH_OUTPUT], set[str]()
    while pending:
        node = producer.get(pending.pop())
        if node is None or node.name in seen or node.op_type == "LayerNormalization":
            continue
        seen.add(node.name)
        assert HALF not in {types.get(name) for name in (*node.input, *node.output)}, node.name
        pending.extend(node.input)
    assert len(seen) >= 8


def test_a_tensor_is_cast_once_for_all_its_readers(fp16: OnnxModel) -> None:
    graph, types = infer_types(fp16)
    casts = [
        (node.input[0], node.attribute[0].i)
        for node in graph.node
        if node.op_type == "Cast" and types[node.input[0]] in (FLOAT, HALF)
    ]
    assert len(casts) == len(set(casts))
    assert all(types[name] != to for name, to in casts)


def test_inputs_stay_int64_and_the_output_fp32(fp32: OnnxModel, fp16: OnnxModel) -> None:
    assert (fp16.inputs, fp16.outputs) == (fp32.inputs, fp32.outputs)
    assert infer_types(fp16)[1][GRAPH_OUTPUT] == FLOAT
    assert fp16.precision is NumericType.fp16
    assert fp16.source_sha256 == fp32.sha256


def test_no_fp16_constant_is_infinite_or_below_the_mask_value(fp16: OnnxModel) -> None:
    values = load_graph(fp16).graph.initializers.values()
    arrays = [array for v in values if (array := constant(v)) is not None]
    half = [array for array in arrays if array.dtype == np.float16]
    assert len(half) > 20
    for array in half:
        assert np.isfinite(array).all()
        assert array.min() >= -1e4


# What it computes


@pytest.mark.many
@pytest.mark.parametrize("runtime", ["onnxruntime", "half arithmetic"])
def test_fp16_stays_close_to_fp32(
    runtime: str,
    fp32: OnnxModel,
    fp16: OnnxModel,
    encoder: HalfArithmetic,
    evaluation_batch: TokenBatch,
) -> None:
    half = OnnxRuntimeEncoder(fp16.path) if runtime == "onnxruntime" else encoder
    expected = OnnxRuntimeEncoder(fp32.path).encode(evaluation_batch)
    observed = half.encode(evaluation_batch)
    assert observed.dtype == np.float32
    assert row_cosines(expected, observed).min() >= 0.999
    assert not np.array_equal(expected, observed)


@pytest.mark.slow
def test_every_length_up_to_the_longest_gives_finite_unit_vectors(
    encoder: HalfArithmetic, tiny_tokenizer: Tokenizer
) -> None:
    (full,) = tiny_tokenizer.rows(["word " * 100])
    assert len(full.ids) == 48
    for n in range(1, 49):
        row = TokenRow(ids=full.ids[:n], type_ids=full.type_ids[:n])
        for length in (n, 48):
            embedding = encoder.encode(tiny_tokenizer.pad([row], length=length))
            assert np.linalg.norm(embedding) == pytest.approx(1, abs=1e-3), (n, length)


def test_a_batch_of_padding_gives_zeros_as_pytorch_does(
    encoder: HalfArithmetic, tiny_tokenizer: Tokenizer
) -> None:
    batch = tiny_tokenizer.pad(tiny_tokenizer.rows(["one text", "another"]))
    nothing = replace(batch, attention_mask=np.zeros_like(batch.attention_mask))
    assert not encoder.encode(nothing).any()


@pytest.mark.slow
def test_a_row_of_padding_leaves_the_other_rows_unchanged(
    encoder: HalfArithmetic, evaluation_batch: TokenBatch
) -> None:
    mask = evaluation_batch.attention_mask.copy()
    mask[5] = 0
    before = encoder.encode(evaluation_batch)
    after = encoder.encode(replace(evaluation_batch, attention_mask=mask))
    assert not after[5].any()
    others = np.arange(len(before)) != 5
    np.testing.assert_array_equal(after[others], before[others])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("plant", "op_type"),
    [(plant_large_weight, "MatMul"), (plant_large_embedding, "Gather")],
    ids=["gemm", "embedding"],
)
def test_a_weight_that_fp16_cannot_hold_keeps_its_node_in_fp32(
    plant: Callable[[Any], None],
    op_type: str,
    cast_planted: CastPlanted,
    evaluation_batch: TokenBatch,
) -> None:
    fp32, fp16 = cast_planted(plant)
    graph, types = infer_types(fp16)
    large = {
        tensor.name
        for tensor in graph.initializer
        if tensor.data_type == FLOAT and np.abs(onnx.numpy_helper.to_array(tensor)).max() > 65504
    }
    (node,) = [node for node in graph.node if large & set(node.input)]
    assert node.op_type == op_type
    assert types[node.output[0]] == FLOAT
    others = [n for n in graph.node if n.op_type == op_type and n.name != node.name]
    assert HALF in {types[n.output[0]] for n in others}
    expected = OnnxRuntimeEncoder(fp32.path).encode(evaluation_batch)
    observed = HalfArithmetic(fp16).encode(evaluation_batch)
    assert np.isfinite(observed).all()
    assert row_cosines(expected, observed).min() >= 0.999


def plant_overflowing_weight(bert: Any) -> None:
    """Make one output of a GEMM some 80,000 times an ordinary activation."""
    bert.encoder.layer[0].intermediate.dense.weight[3, 3] = 80_000.0


def plant_overflowing_bias(bert: Any) -> None:
    """Make one output of a GEMM 80,000 for every token."""
    bert.encoder.layer[1].intermediate.dense.bias[5] = 80_000.0


@pytest.mark.slow
@pytest.mark.parametrize("plant", [plant_overflowing_weight, plant_overflowing_bias])
def test_activations_that_fp16_cannot_hold_stay_in_fp32(
    plant: Callable[[Any], None], cast_planted: CastPlanted, evaluation_batch: TokenBatch
) -> None:
    fp32, fp16 = cast_planted(plant)
    expected = OnnxRuntimeEncoder(fp32.path).encode(evaluation_batch)
    observed = HalfArithmetic(fp16).encode(evaluation_batch)
    assert np.isfinite(observed).all()
    assert row_cosines(expected, observed).min() >= 0.999


# What is refused


def test_only_fp32_graphs_are_cast(
    tiny_fp32: OnnxModel, tiny_source: SourceModel, tmp_path: Path
) -> None:
    with pytest.raises(CastError, match="is int8, expected fp32"):
        cast(replace(tiny_fp32, precision=NumericType.int8), tiny_source, ["a"], tmp_path / "out")


def test_a_graph_with_a_subgraph_is_refused(tiny_source: SourceModel, tmp_path: Path) -> None:
    graph = ir.from_onnx_text(
        """<ir_version: 8, opset_import: ["" : 20]>
        graph (bool c, float[2] x) => (float[2] sentence_embedding)
        { sentence_embedding = If (c) <
            then_branch = a () => (float[2] y) { y = Relu(x) },
            else_branch = b () => (float[2] z) { z = Neg(x) }
        > }"""
    )
    path = tmp_path / "model.onnx"
    model = save_graph(graph, path, precision=NumericType.fp32, source_sha256="")
    with pytest.raises(CastError, match=r"\(If\) holds a subgraph; use precision=fp32"):
        cast(model, tiny_source, ["a"], tmp_path / "out")


@pytest.mark.parametrize(
    "text",
    [
        "a = Mul(u, frequency) c = Cos(a) seen = Mul(c, frequency)",
        "d = Div(u, eight) l = Log(d) m = Mul(l, frequency) i = Cast <to = 7> (m) "
        "seen = Gather(table, i)",
    ],
    ids=["rotary angle", "bucket of a relative position"],
)
def test_positions_are_computed_in_fp32(text: str) -> None:
    """fp16 would lose the angle of a far position and put near ones into the wrong bucket."""
    proto = onnx.parser.parse_model(
        f"""<ir_version: 8, opset_import: ["" : 20]>
        graph (int64[b,s] ids) => (float[b,s,2] out)
        <int64[1] last = {{2}}, float[2] frequency = {{2.8853900, 0.1}}, float eight = {{8}},
         float[2] scale = {{1, 1}}, float[20] table = {{{", ".join(map(str, range(20)))}}}>
        {{ p = Cast <to = 1> (ids) u = Unsqueeze(p, last) {text}
           out = LayerNormalization(seen, scale) }}"""
    )
    proto = onnx.shape_inference.infer_shapes(proto)
    model = ir.from_proto(proto)
    half, _ = cast_to_half(model)
    model.graph.outputs.append(next(v for n in model.graph for v in n.outputs if v.name == "seen"))
    ids = np.arange(8, 2048)[None]
    proto.graph.output.append(next(v for v in proto.graph.value_info if v.name == "seen"))
    evaluators: list[Any] = [ReferenceEvaluator(p) for p in (proto, ir.to_proto(model))]
    expected, observed = (e.run(["seen"], {"ids": ids})[0] for e in evaluators)
    assert half
    assert observed.dtype == np.float16
    np.testing.assert_allclose(observed, expected, atol=5e-3)
