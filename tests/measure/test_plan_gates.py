"""Gates on plans that TensorRT-RTX built here: good ones pass, three made to fail do fail."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from pipeline.config import NumericType, PlanGatesConfig
from pipeline.contracts import Graphs, OnnxModel, Profile, SourceModel
from pipeline.engines.gpu import is_installed
from pipeline.engines.layers.records import EngineLayers, Kind
from pipeline.engines.plan_of_graph import plan_of_graph
from pipeline.measure.plan_gates import Promise, apply_plan_gates, promise_of
from pipeline.measure.results import Gate
from pipeline.stages.cast import cast, cast_bf16

pytestmark = pytest.mark.skipif(
    not is_installed("tensorrt_rtx"), reason="tensorrt_rtx is not installed"
)

SHORT = Profile(min=(1, 1), opt=(8, 32), max=(16, 48))
ALL = PlanGatesConfig(int8_gemms=1, gemm_types=1, attention_fused={"fp32": 1, "fp16": 1, "int8": 1})
BF16_TOO = replace(ALL, attention_fused={**ALL.attention_fused, "bf16": 1})
FP16 = Promise(kind=NumericType.fp16, otherwise="fp16", int8={})
Plans = Callable[[Path], EngineLayers]


@pytest.fixture(scope="module")
def plan() -> Plans:
    """Return a function that builds a graph's plan, once."""
    known: dict[Path, EngineLayers] = {}

    def build(path: Path) -> EngineLayers:
        if path not in known:
            known[path] = plan_of_graph(path, "8.9", profile=SHORT)
        return known[path]

    return build


@pytest.fixture(scope="module")
def tiny_half(
    tiny_fp32: OnnxModel,
    tiny_source: SourceModel,
    calibration_texts: Sequence[str],
    tmp_path_factory: pytest.TempPathFactory,
) -> OnnxModel:
    return cast(tiny_fp32, tiny_source, calibration_texts, tmp_path_factory.mktemp("half") / "cast")


def judged(found: EngineLayers, promise: Promise, config: PlanGatesConfig = ALL) -> dict[str, Gate]:
    return {gate.name: gate for gate in apply_plan_gates(found, promise, config)}


@pytest.mark.slow
def test_good_plans_pass(plan: Plans, tiny_int8: Graphs, tiny_half: OnnxModel) -> None:
    said = promise_of(NumericType.int8, tiny_int8.quantization)
    assert (len(said.int8), said.otherwise) == (12, "fp16")
    gates = judged(plan(tiny_int8.buildable.path), said)
    assert [(name, gate.observed, gate.detail) for name, gate in gates.items()] == [
        ("plan.int8_gemms", 1, None),
        ("plan.gemm_types", 1, None),
        ("plan.attention_fused", 1, None),
    ]
    fp16 = judged(plan(tiny_half.path), FP16)
    assert list(fp16) == ["plan.gemm_types", "plan.attention_fused"]
    assert all(gate.passed for gate in fp16.values())


@pytest.mark.slow
def test_a_qdq_left_out_fails_and_names_the_gemm(
    plan: Plans, tiny_int8: Graphs, tmp_path: Path
) -> None:
    model = onnx.load(tiny_int8.buildable.path)
    makers = {name: node for node in model.graph.node for name in node.output}
    gemm = next(
        node
        for node in model.graph.node
        if node.op_type == "MatMul" and "Dequantize" in makers[node.input[0]].op_type
    )
    gemm.input[0] = makers[makers[gemm.input[0]].input[0]].input[0]
    onnx.save(model, tmp_path / "left_out.onnx")
    said = promise_of(NumericType.int8, tiny_int8.quantization)
    gate = judged(plan(tmp_path / "left_out.onnx"), said)["plan.int8_gemms"]
    assert not gate.passed
    assert gate.observed == pytest.approx(11 / 12)
    assert gate.setting == "validate.gates.plan.int8_gemms"
    name = said.int8[gemm.name]
    assert gate.detail is not None
    assert gate.detail.startswith(f"{name} computes in fp16 (")


def attention_of(heads: int, width: int, path: Path) -> Path:
    """Save one attention block in fp16 over an embedding table."""
    rng, size = np.random.default_rng(0), heads * width
    weights = {
        name: (rng.standard_normal((size, size)) / size**0.5).astype(np.float16) for name in "qkvo"
    } | {"table": rng.standard_normal((64, size)).astype(np.float16)}
    weights |= {"split": np.array([0, 0, heads, width]), "join": np.array([0, 0, size])}
    nodes = [helper.make_node("Gather", ["table", "input_ids"], ["x"], name="gather")]
    for name in "qkv":
        order = [0, 2, 3, 1] if name == "k" else [0, 2, 1, 3]
        nodes += [
            helper.make_node("MatMul", ["x", name], [f"{name}0"], name=f"{name}_gemm"),
            helper.make_node("Reshape", [f"{name}0", "split"], [f"{name}1"], name=f"{name}_view"),
            helper.make_node(
                "Transpose", [f"{name}1"], [f"{name}2"], name=f"{name}_heads", perm=order
            ),
        ]
    nodes += [
        helper.make_node("MatMul", ["q2", "k2"], ["scores"], name="scores"),
        helper.make_node("Softmax", ["scores"], ["shares"], name="softmax", axis=-1),
        helper.make_node("MatMul", ["shares", "v2"], ["sums"], name="sums"),
        helper.make_node("Transpose", ["sums"], ["tokens"], name="tokens", perm=[0, 2, 1, 3]),
        helper.make_node("Reshape", ["tokens", "join"], ["joined"], name="joined"),
        helper.make_node("MatMul", ["joined", "o"], ["y"], name="o_gemm"),
    ]
    graph = helper.make_graph(
        nodes,
        "attention",
        [helper.make_tensor_value_info("input_ids", TensorProto.INT64, ["batch", "sequence"])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT16, ["batch", "sequence", size])],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.save(onnx.shape_inference.infer_shapes(model), path)
    return path


@pytest.mark.slow
def test_an_attention_that_cannot_fuse_fails_and_is_named(plan: Plans, tmp_path: Path) -> None:
    """Heads of 8 are too narrow for TensorRT-RTX's attention kernel, of 16 they are not."""
    found = plan(attention_of(4, 8, tmp_path / "narrow.onnx"))
    gate = judged(found, FP16)["plan.attention_fused"]
    assert (gate.observed, gate.passed) == (0, False)
    assert gate.setting == "validate.gates.plan.attention_fused.fp16"
    kernel = next(layer for layer in found.layers if "softmax" in layer.nodes)
    assert gate.detail == f"attention of block 0 is in parts (softmax in {kernel.name})"
    wide = judged(plan(attention_of(2, 16, tmp_path / "wide.onnx")), FP16)
    assert all(gate.passed for gate in wide.values())
    assert len(wide) == 2


@pytest.mark.slow
def test_an_fp32_plan_named_fp16_fails_and_names_its_gemms(
    plan: Plans, tiny_fp32: OnnxModel
) -> None:
    found = plan(tiny_fp32.path)
    gate = judged(found, FP16)["plan.gemm_types"]
    assert (gate.observed, gate.passed) == (0, False)
    kernel = next(layer for layer in found.layers if layer.gemms)
    assert gate.detail is not None
    assert gate.detail.startswith(f"{kernel.gemms[0]} computes in fp32 ({kernel.name}); ")
    assert gate.detail.endswith(" and 9 more")
    named = Promise(kind=NumericType.fp32, otherwise="fp32", int8={})
    assert judged(found, named)["plan.gemm_types"].passed


@pytest.mark.slow
def test_what_the_cast_left_in_fp32_on_purpose_may_be_so(
    plan: Plans,
    tiny_fp32: OnnxModel,
    tiny_source: SourceModel,
    calibration_texts: Sequence[str],
    tmp_path: Path,
) -> None:
    half = cast(
        tiny_fp32, tiny_source, calibration_texts, tmp_path / "cast", keep=["layer_norm_1*"]
    )
    found = plan(half.path)
    kept = [layer for layer in found.layers if layer.gemms and layer.type == "fp32"]
    assert len(kept) == 1
    assert set(kept[0].gemms) <= set(found.kept_fp32)
    assert judged(found, FP16)["plan.gemm_types"].passed
    assert not judged(replace(found, kept_fp32=()), FP16)["plan.gemm_types"].passed


@pytest.mark.slow
def test_a_bf16_plan_computes_in_bf16_with_attention_fused(
    plan: Plans,
    tiny_fp32: OnnxModel,
    tiny_source: SourceModel,
    calibration_texts: Sequence[str],
    tmp_path: Path,
) -> None:
    graphs = cast_bf16(tiny_fp32, tiny_source, calibration_texts, tmp_path / "cast")
    found = plan(graphs.buildable.path)
    gates = judged(found, promise_of(NumericType.bf16, None), BF16_TOO)
    assert set(gates) == {"plan.gemm_types", "plan.attention_fused"}
    assert all(gate.passed for gate in gates.values())
    assert {layer.type for layer in found.layers if layer.gemms} == {"bf16"}
    assert not judged(found, FP16)["plan.gemm_types"].passed


@pytest.mark.slow
def test_each_gate_can_be_turned_off(plan: Plans, tiny_fp32: OnnxModel) -> None:
    off = PlanGatesConfig(attention_fused={"fp16": None, "int8": 1})
    assert judged(plan(tiny_fp32.path), FP16, off) == {}


@pytest.mark.slow
def test_a_gemm_that_the_plan_does_not_have_fails(plan: Plans, tiny_half: OnnxModel) -> None:
    said = Promise(kind=NumericType.int8, otherwise="fp16", int8={"node_gone": "dense.7"})
    gate = judged(plan(tiny_half.path), said)["plan.int8_gemms"]
    assert gate.detail == "dense.7 is in no GEMM of the plan"
    fused = [layer for layer in plan(tiny_half.path).layers if layer.kind is Kind.attention]
    assert len(fused) == 2
