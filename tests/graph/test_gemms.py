from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx.reference import ReferenceEvaluator

from pipeline.contracts import OnnxModel
from pipeline.graph.files import load_graph
from pipeline.graph.gemms import add_missing_biases, canonicalize_gemms, find_gemm_groups

QUERY, KEY, VALUE = (f"attention.self.{part}" for part in ("query", "key", "value"))
LAYER = [{QUERY, KEY, VALUE}, {"attention.output.dense"}, {"intermediate.dense"}, {"output.dense"}]


def find(text: str) -> list[list[str]]:
    """Return the outputs of the GEMMs found in a graph ``x, y -> out``, grouped."""
    model = ir.from_onnx_text(
        f"""<ir_version: 8, opset_import: ["" : 20]>
        graph (float[b,s,2] x, float[b,2,2] y) => (float out)
        <float[2,2] w = {{1, 2, 3, 4}}, float[2,2] v = {{5, 6, 7, 8}}, float[2] bias = {{1, 2}},
         float[1,2,2] w3 = {{1, 2, 3, 4}}>
        {{ {text} }}"""
    )
    model = ir.from_proto(onnx.shape_inference.infer_shapes(ir.to_proto(model)))
    return [[g.output.name or "" for g in group.gemms] for group in find_gemm_groups(model.graph)]


@pytest.mark.parametrize("fixture", ["tiny_fp32", "tiny_optimum_fp32"])
def test_the_six_linear_layers_of_each_encoder_layer_are_found(
    fixture: str, request: pytest.FixtureRequest
) -> None:
    graph = load_graph(request.getfixturevalue(fixture)).graph
    groups = find_gemm_groups(graph)
    names = [{gemm.name for gemm in group.gemms} for group in groups]
    assert sum(map(len, names)) == 12
    expected = [{f".layer.{i}.{part}" for part in parts} for i in (0, 1) for parts in LAYER]
    for seen, wanted in zip(names, expected, strict=True):
        assert {name[name.index(".layer.") :] for name in seen} == wanted


def test_attention_batch_gemms_are_not_matched(tiny_fp32: OnnxModel) -> None:
    graph = load_graph(tiny_fp32).graph
    found = {gemm.node for group in find_gemm_groups(graph) for gemm in group.gemms}
    left = [node for node in graph if node.op_type == "MatMul" and node not in found]
    assert len(left) == 4
    assert all(value and value.const_value is None for node in left for value in node.inputs)


def test_a_group_knows_its_tensor_and_its_channels(tiny_fp32: OnnxModel) -> None:
    groups = find_gemm_groups(load_graph(tiny_fp32).graph)
    assert [group.channels for group in groups] == [32, 32, 32, 64] * 2
    for group in groups:
        assert all(gemm.node.inputs[0] is group.activation for gemm in group.gemms)
        assert all(gemm.bias is not None for gemm in group.gemms)


@pytest.mark.parametrize("add", ["Add(h, bias)", "Add(bias, h)"])
def test_the_bias_belongs_to_the_gemm_on_either_side_of_its_add(add: str) -> None:
    assert find(f"h = MatMul(x, w) out = {add}") == [["out"]]


@pytest.mark.parametrize(
    "text",
    [
        "h = MatMul(x, w) out = Add(h, x)",
        "h = MatMul(x, w) out = Add(h, w3)",
        "h = MatMul(x, w) i = Add(h, bias) j = Relu(h) out = Add(i, j)",
    ],
    ids=["residual", "not a vector", "also read before the bias"],
)
def test_an_add_that_is_no_bias_stays_outside(text: str) -> None:
    assert find(text) == [["h"]]


def test_gemms_that_read_one_tensor_share_a_group() -> None:
    text = "a = MatMul(x, w) c = Relu(x) d = MatMul(c, w) b = MatMul(x, v) e = Add(a, b)"
    assert find(f"{text} out = Add(d, e)") == [["a", "b"], ["d"]]


@pytest.mark.parametrize(
    "text",
    [
        "out = MatMul(x, y)",
        "out = MatMul(w, y)",
        "out = MatMul(w, v)",
        "out = MatMul(x, w3)",
        "i = Cast <to = 7> (x) out = Gather(w, i)",
        "z = ReduceMax <keepdims = 0> (x, axis) out = Gemm(z, w)",
        "z = ReduceMax <keepdims = 0> (x, axis) out = MatMul(z, w)",
    ],
    ids=["two computed", "constant left", "two constants", "3-D", "embedding", "Gemm op", "2-D"],
)
def test_what_is_no_linear_gemm_is_not_matched(text: str) -> None:
    text = f"axis = Constant <value = int64[1] {{1}}> () {text}" if "axis" in text else text
    assert find(text) == []


# Other forms of the same


@pytest.mark.parametrize(
    "text",
    [
        "wt = Transpose <perm = [1, 0]> (w) out = MatMul(x, wt)",
        "wt = Transpose(w) h = MatMul(x, wt) out = Add(bias, h)",
        "r = Reshape(x, flat) g = Gemm(r, w, bias) out = Reshape(g, back)",
        "r = Reshape(x, flat) g = Gemm <transB = 1> (r, v, bias) out = Reshape(g, back)",
        "r = Reshape(x, flat) g = Gemm(r, w) out = Reshape(g, back)",
        "r = Reshape(x, flat) a = Gemm(r, w) b = Gemm(r, w, bias) c = Add(a, b) "
        "out = Reshape(c, back)",
        "wt = Transpose(w) a = MatMul(x, wt) b = MatMul(a, wt) out = Relu(b)",
        "h = Reshape(x, heads) r = Reshape(h, flat) g = Gemm(r, w, bias) out = Reshape(g, back)",
        "h = Reshape(x, heads) r = Reshape(h, flat) g = Gemm(r, w) out = Reshape(g, back)",
    ],
)
def test_other_forms_are_brought_to_a_matmul_that_computes_the_same(text: str) -> None:
    model = parse(text)
    assert not find_gemm_groups(model.graph)
    expected = run(model)
    canonicalize_gemms(model.graph)
    groups = find_gemm_groups(model.graph)
    assert sum(len(group.gemms) for group in groups) == text.count("Gemm") + text.count("MatMul")
    assert {node.op_type for node in model.graph}.isdisjoint({"Gemm"})
    np.testing.assert_array_equal(run(model), expected)


@pytest.mark.parametrize(
    "text",
    [
        "r = Reshape(x, flat) g = Gemm <alpha = 0.5> (r, w, bias) out = Reshape(g, back)",
        "r = Reshape(x, flat) g = Gemm <beta = 0.5> (r, w, bias) out = Reshape(g, back)",
        "r = Reshape(x, flat) g = Gemm(r, w, half) out = Reshape(g, back)",
        "r = Reshape(x, pairs) t = Gemm <transA = 1> (r, w) out = Reshape(t, back)",
        "r = Transpose <perm = [0, 2, 1]> (x) q = Reshape(r, flat) g = Gemm(q, w) "
        "out = Reshape(g, back)",
        "z = ReduceMax <keepdims = 0> (x, ones) g = Gemm(z, w) out = Reshape(g, back)",
        "z = ReduceMax <keepdims = 0> (x, ones) h = Reshape(z, pooled_heads) r = Reshape(h, flat) "
        "g = Gemm(r, w) out = Reshape(g, back)",
    ],
    ids=[
        *("alpha", "beta", "scalar bias", "transA", "tokens along the channels", "pooled"),
        "pooled, in heads",
    ],
)
def test_what_is_another_computation_is_left_as_it_is(text: str) -> None:
    model = parse(text)
    canonicalize_gemms(model.graph)
    assert not find_gemm_groups(model.graph)
    assert "Gemm" in {node.op_type for node in model.graph}


def test_missing_biases_are_zeros_that_change_nothing() -> None:
    model = parse("a = MatMul(x, w) c = Relu(a) d = MatMul(c, v) e = Add(d, bias) out = Add(a, e)")
    expected = run(model)
    groups = add_missing_biases(model.graph, find_gemm_groups(model.graph))
    biases = [gemm.bias_array.tolist() for group in groups for gemm in group.gemms]
    assert biases == [[0, 0], [1, 2]]
    assert [group.activation.name for group in groups] == ["x", "c"]
    np.testing.assert_array_equal(run(model), expected)


def test_gemms_that_share_their_parameters_have_names_of_their_own() -> None:
    model = parse(
        "a = MatMul(x, w) b = Add(a, bias) c = Relu(b) d = MatMul(c, w) out = Add(d, bias)"
    )
    model.graph.initializers["bias"].name = "dense.bias"
    names = [gemm.name for group in find_gemm_groups(model.graph) for gemm in group.gemms]
    assert names == ["dense", "dense.2"]


def parse(text: str) -> ir.Model:
    """Return a graph ``x -> out`` with the shapes of its tensors."""
    proto = onnx.parser.parse_model(
        f"""<ir_version: 8, opset_import: ["" : 20]>
        graph (float[b,3,2] x) => (float[b,3,2] out)
        <float[2,2] w = {{1, 2, 3, 4}}, float[2,2] v = {{5, 6, 7, 8}}, float[2] bias = {{1, 2}},
         float half = {{0.5}}, int64[2] flat = {{-1, 2}}, int64[3] back = {{-1, 3, 2}},
         int64[4] heads = {{0, 0, 2, 1}}, int64[3] pooled_heads = {{0, 2, 1}},
         int64[2] pairs = {{2, -1}}, int64[1] ones = {{1}}>
        {{ {text} }}"""
    )
    return ir.from_proto(onnx.shape_inference.infer_shapes(proto))


def run(model: ir.Model) -> Any:
    evaluator: Any = ReferenceEvaluator(ir.to_proto(model))
    x = np.arange(12, dtype=np.float32).reshape(2, 3, 2)
    return evaluator.run(["out"], {"x": x})[0]
