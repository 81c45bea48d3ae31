"""The graph in PyTorch: every operator against ONNX's reference, every architecture as a whole."""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir as ir
import pytest
import torch
from architectures import ARCHITECTURES
from onnx.reference import ReferenceEvaluator

from pipeline.config import Exporter
from pipeline.contracts import GRAPH_OUTPUT, OnnxModel, SourceModel
from pipeline.engines.onnxruntime import open_session
from pipeline.errors import QuantizeError
from pipeline.graph.files import load_graph
from pipeline.quant.refine.torch_graph import TorchGraph
from pipeline.text.tokens import TokenBatch, Tokenizer

RANDOM = np.random.default_rng(0)
X = RANDOM.normal(size=(2, 3, 4)).astype(np.float32)
IDS = np.array([[5, 0, -7], [2, 3, -1]], np.int64)
CONSTANTS = {
    "neg_one": [-1],
    "zero": [0],
    "one": [1],
    "two": [2],
    "three": [3],
    "ends": [0, -1],
    "none_of_them": np.zeros(0, np.int64),
    "far": [np.iinfo(np.int64).max],
    "far_back": [np.iinfo(np.int64).min],
    "shape_zero": [0, -1],
    "shape_more": [0, 2, -1, 1],
    "sizes": [1, 3],
    "repeats": [1, 2, 3],
    "pads": [0, 1, 2, 1, 0, 3],
    "two_pads": [1, 2, 0, 3],
    "id_pads": [0, 1, 2, 0],
    "wide": [5, 1, 3, 4],
    "narrow": [3, 1],
    "picks": [[-1, 0], [2, -3]],
    "pick": -2,
    "start": 1,
    "stop": 12,
    "back": -2,
    "stride": 3,
    "divisor": 2,
    "low": np.float32(-0.5),
    "high": np.float32(0.75),
    "half": np.float32(0.5),
    "fractional": np.float32(0.3),
    "end": np.float32(2.0),
    "scale": RANDOM.normal(size=4).astype(np.float32),
    "offset": RANDOM.normal(size=4).astype(np.float32),
    "matrix": RANDOM.normal(size=(4, 5)).astype(np.float32),
    "square": RANDOM.normal(size=(4, 4)).astype(np.float32),
    "row": RANDOM.normal(size=5).astype(np.float32),
    "elements": [[2, -1, 0], [0, 0, -3]],
    "firsts": [[0, 0, -1, 0]],
    "pairs": [[[1, 2], [0, -1]], [[0, 0], [-2, 1]]],
    "tuples": [[[2, 0]], [[-1, 3]]],
    "ties": np.array([[1, 3, 3], [2, 0, 2]], np.int32),
    "small": np.array(7, np.int32),
    "small_step": np.array(2, np.int32),
    "small_start": np.array(1, np.int32),
}

FORMS = {
    "reduce, axes an input": "y = ReduceMean <keepdims = 0> (x, neg_one)",
    "reduce over several axes": "y = ReduceSum(x, ends)",
    "reduce everything": "y = ReduceMax <keepdims = 0> (x)",
    "reduce everything, keeping axes": "y = ReduceMean(x)",
    "sum without axes": "y = ReduceSum(x)",
    "sum over an empty list of axes": "y = ReduceSum(x, none_of_them)",
    "no sum": "y = ReduceSum <noop_with_empty_axes = 1> (x)",
    "no sum over no axes": "y = ReduceSum <noop_with_empty_axes = 1> (x, none_of_them)",
    "norm": "y = ReduceL2(x, neg_one)",
    "norm of everything": "y = ReduceL2 <keepdims = 0> (x)",
    "norm over an empty list of axes": "y = ReduceL2(x, none_of_them)",
    "ceil": "y = Ceil(x)",
    "floor": "y = Floor(x)",
    "sign": "y = Sign(x)",
    "sign of whole numbers": "y = Sign(ids)",
    "tile": "y = Tile(x, repeats)",
    "pad": "y = Pad(x, pads)",
    "pad with a number": "y = Pad(x, pads, half)",
    "pad some axes": "y = Pad(x, two_pads, , ends)",
    "pad whole numbers": "y = Pad(ids, id_pads)",
    "slice": "y = Slice(x, one, three)",
    "slice along an axis": "y = Slice(x, one, two, neg_one)",
    "slice from behind": "y = Slice(x, neg_one, far, one)",
    "slice up to the last": "y = Slice(x, zero, neg_one, two)",
    "slice with a step": "y = Slice(x, zero, far, two, three)",
    "slice backwards": "y = Slice(x, neg_one, far_back, two, neg_one)",
    "slice of nothing": "y = Slice(x, far, far, two)",
    "slice along two axes": "y = Slice(x, ends, sizes, ends)",
    "gather": "y = Gather(x, pick)",
    "gather with negative indices": "y = Gather <axis = 1> (x, picks)",
    "gather along the last axis": "y = Gather <axis = -1> (x, pick)",
    "gather rows of a table": "y = Gather(matrix, picks)",
    "gather a row of a table": "y = Gather(matrix, pick)",
    "gather sizes": "n = Shape(x) y = Gather(n, pick)",
    "gather elements": "y = GatherElements <axis = 1> (ids, elements)",
    "gather elements of an only row": "r = Unsqueeze(offset, zero) y = GatherElements(r, firsts)",
    "gather by tuples": "y = GatherND(x, pairs)",
    "gather by tuples within a batch": "y = GatherND <batch_dims = 1> (x, tuples)",
    "the first of the largest": "y = ArgMax <axis = 1, keepdims = 0> (ties)",
    "the largest, its axis kept": "y = ArgMax <axis = -1> (x)",
    "gemm": "y = Gemm(square, matrix, row)",
    "gemm, turned and scaled": """y = Gemm <alpha = 0.5, beta = 2.0, transA = 1, transB = 1>
    (matrix, square, offset)""",
    "gemm without a third": "y = Gemm <alpha = 2.0> (square, matrix)",
    "reshape": "y = Reshape(x, shape_zero)",
    "reshape to more axes": "y = Reshape(x, shape_more)",
    "split": "y, z = Split <axis = 2, num_outputs = 2> (x)",
    "split into sizes": "y, z = Split <axis = -1> (x, sizes)",
    "split unevenly": "y, z = Split <axis = 1, num_outputs = 2> (x)",
    "split in three, unevenly": "y, z, w = Split <axis = 2, num_outputs = 3> (x)",
    "split of which one part is read": "w, z = Split <axis = 2, num_outputs = 2> (x) y = Neg(z)",
    "zeros": "n = Shape(x) y = ConstantOfShape(n)",
    "whole numbers": "n = Shape(x) y = ConstantOfShape <value = int64[1] {7}> (n)",
    "small whole numbers": "n = Shape(x) y = ConstantOfShape <value = int32[1] {7}> (n)",
    "truths": "n = Shape(x) y = ConstantOfShape <value = bool[1] {1}> (n)",
    "doubles": "n = Shape(x) y = ConstantOfShape <value = double[1] {0.1}> (n)",
    "a scalar of no shape": "y = ConstantOfShape <value = float[1] {0.5}> (none_of_them)",
    "cast to int64": "y = Cast <to = 7> (x)",
    "cast to int32": "y = Cast <to = 6> (x)",
    "cast to bool": "y = Cast <to = 9> (ids)",
    "cast to float": "y = Cast <to = 1> (ids)",
    "cast to double": "y = Cast <to = 11> (x)",
    "cast to half": "y = Cast <to = 10> (x)",
    "cast to uint8": "y = Cast <to = 2> (mask)",
    "cast to int8": "y = Cast <to = 3> (ids)",
    "clip": "y = Clip(x, low, high)",
    "clip from below": "y = Clip(x, low)",
    "clip from above": "y = Clip(x, , high)",
    "clip nothing": "y = Clip(x)",
    "where": "y = Where(mask, x, half)",
    "where, broadcast": "y = Where(mask, half, scale)",
    "range": "y = Range(start, stop, stride)",
    "range downwards": "y = Range(stop, start, back)",
    "range of floats": "y = Range(half, end, fractional)",
    "range of int32": "y = Range(small_start, small, small_step)",
    "expand": "n = Shape(x) y = Expand(scale, n)",
    "expand to more axes": "y = Expand(x, wide)",
    "expand to less": "y = Expand(x, narrow)",
    "shape": "y = Shape(x)",
    "part of a shape": "y = Shape <start = -2, end = -1> (x)",
    "unsqueeze": "y = Unsqueeze(x, ends)",
    "unsqueeze in front": "y = Unsqueeze(x, zero)",
    "squeeze": "u = Unsqueeze(x, ends) y = Squeeze(u, ends)",
    "squeeze everything": "u = Unsqueeze(x, ends) y = Squeeze(u)",
    "transpose": "y = Transpose <perm = [2, 0, 1]> (x)",
    "transpose of no order": "y = Transpose(x)",
    "concat": "y = Concat <axis = -1> (x, x, x)",
    "concat along the batch": "y = Concat <axis = 0> (x, x)",
    "layer norm": "y = LayerNormalization <epsilon = 0.1> (x, scale, offset)",
    "layer norm without bias": "y = LayerNormalization(x, scale)",
    "layer norm along a counted axis": "y = LayerNormalization <axis = 2> (x, scale, offset)",
    "softmax": "y = Softmax(x)",
    "softmax along the sequence": "y = Softmax <axis = 1> (x)",
    "gelu": "y = Gelu(x)",
    "gelu, tanh": """y = Gelu <approximate = "tanh"> (x)""",
    "matmul": "y = MatMul(x, matrix)",
    "matmul of batches": "t = Transpose <perm = [0, 2, 1]> (x) y = MatMul(x, t)",
    "integers divided": "y = Div(ids, divisor)",
    "floats divided": "y = Div(x, half)",
    "power": "a = Abs(x) y = Pow(a, half)",
    "power of an integer": "y = Pow(x, divisor)",
    "most of three": "y = Max(x, scale, offset)",
    "least of one": "y = Min(x)",
    "least of two": "y = Min(x, half)",
    "comparisons": """a = Greater(x, half) b = LessOrEqual(x, low) c = Or(a, b) d = Not(c)
    e = Less(x, high) f = And(d, e) g = GreaterOrEqual(x, fractional) y = And(f, g)""",
    "equal": "n = Equal(ids, divisor) y = Cast <to = 7> (n)",
    "functions": """a = Abs(x) b = Sqrt(a) c = Exp(b) d = Log(c) e = Sin(d) f = Cos(e)
    g = Tanh(f) h = Sigmoid(g) i = Reciprocal(h) j = Erf(i) k = Neg(j) l = Relu(x) m = Sub(k, l)
    y = Mul(m, x)""",
    "running sum": "y = CumSum(ids, pick)",
    "running sum from behind": "y = CumSum <exclusive = 1, reverse = 1> (x, pick)",
    "one value read twice": "a = Neg(x) b = Add(a, a) y = Mul(b, a)",
    "a constant in the graph": "c = Constant <value = float {2.0}> () y = Mul(x, c)",
}
FORMS_OF_OLD = {  # opset 12
    "axes an attribute": "y = ReduceSum <axes = [-1], keepdims = 0> (x)",
    "mean, axes an attribute": "y = ReduceMean <axes = [0, 2]> (x)",
    "unsqueeze, axes an attribute": "y = Unsqueeze <axes = [0, -1]> (x)",
    "squeeze, axes an attribute": "u = Unsqueeze <axes = [1]> (x) y = Squeeze <axes = [1]> (u)",
    "split, sizes an attribute": "y, z = Split <axis = 2, split = [1, 3]> (x)",
}
CASES = [(name, 20, text) for name, text in FORMS.items()]
CASES += [(name, 12, text) for name, text in FORMS_OF_OLD.items()]

ExportEncoder = Callable[[str, Exporter], tuple[SourceModel, OnnxModel]]


class Feed(TokenBatch):
    """Arrays of any name and type in place of tokens."""

    arrays: Mapping[str, npt.NDArray[Any]]

    def feed(self, names: Sequence[str]) -> dict[str, npt.NDArray[Any]]:
        return {name: self.arrays[name] for name in names}


def feed(arrays: Mapping[str, npt.NDArray[Any]]) -> TokenBatch:
    batch = Feed(input_ids=IDS, attention_mask=IDS, token_type_ids=IDS)
    object.__setattr__(batch, "arrays", arrays)
    return batch


def parse(text: str, opset: int) -> onnx.ModelProto:
    """Return a graph from ``x``, ``ids`` and ``mask`` to ``y``."""
    proto = onnx.parser.parse_model(
        f"""<ir_version: 8, opset_import: ["" : {opset}]>
        graph (float[b,s,4] x, int64[b,s] ids, bool[b,s,1] mask) => (float y) {{ {text} }}"""
    )
    for name, value in CONSTANTS.items():
        proto.graph.initializer.append(onnx.numpy_helper.from_array(np.asarray(value), name))
    return proto


@pytest.mark.many
@pytest.mark.parametrize(
    ("opset", "text"), [case[1:] for case in CASES], ids=[case[0] for case in CASES]
)
def test_an_operator_computes_what_its_specification_says(opset: int, text: str) -> None:
    proto, mask = parse(text, opset), np.array([[[1], [0], [1]], [[0], [0], [1]]], np.bool_)
    arrays: dict[str, npt.NDArray[Any]] = {"x": X, "ids": IDS, "mask": mask}
    evaluator: Any = ReferenceEvaluator(proto)
    expected = np.asarray(evaluator.run(["y"], arrays)[0])
    model = ir.from_proto(proto)
    (observed,) = TorchGraph(model.graph).run(feed(arrays), list(model.graph.outputs))
    assert observed.shape == expected.shape
    assert observed.numpy().dtype == expected.dtype
    np.testing.assert_allclose(observed.numpy(), expected, rtol=1e-5, atol=1e-6)


def test_unknown_operators_are_named_with_the_key_to_change() -> None:
    graph = ir.from_proto(parse("a = Elu(x) b = HardSigmoid(a) y = Neg(b)", 20)).graph
    message = "operators Elu, HardSigmoid of this graph; set precision.reconstruction_steps=0"
    with pytest.raises(QuantizeError, match=re.escape(message)):
        TorchGraph(graph)


def test_a_node_can_be_computed_otherwise() -> None:
    graph = ir.from_proto(parse("a = MatMul(x, matrix) b = Neg(a) y = Exp(b)", 20)).graph
    product, negated = list(graph)[:2]
    overrides = {product: lambda node, inputs: torch.zeros(2, 3) + len(inputs)}
    arrays: dict[str, npt.NDArray[Any]] = {"x": X, "ids": IDS, "mask": IDS}
    wanted = [product.outputs[0], negated.outputs[0], graph.outputs[0]]
    results = TorchGraph(graph).run(feed(arrays), wanted, overrides)
    assert [float(result.mean()) for result in results] == pytest.approx([2, -2, np.exp(-2)])
    assert {tuple(result.shape) for result in results} == {(2, 3)}


CASES_OF_ENCODERS = [(name, Exporter.torch) for name in ARCHITECTURES]
CASES_OF_ENCODERS += [(n, Exporter.optimum) for n in ("bert", "mpnet", "distilbert", "modernbert")]


@pytest.mark.parametrize(
    ("name", "exporter"), CASES_OF_ENCODERS, ids=lambda value: getattr(value, "value", value)
)
def test_every_architecture_gives_what_onnxruntime_gives(
    name: str, exporter: Exporter, export_encoder: ExportEncoder, evaluation_texts: Sequence[str]
) -> None:
    source, fp32 = export_encoder(name, exporter)
    tokenizer = Tokenizer(source.assets, max_length=source.max_length)
    batch = tokenizer.pad(tokenizer.rows(evaluation_texts))
    session = open_session(fp32.path, optimize=False)
    names = [value.name for value in session.get_inputs()]
    expected = session.run([GRAPH_OUTPUT], batch.feed(names))[0]
    graph = load_graph(fp32).graph
    (observed,) = TorchGraph(graph).run(batch, list(graph.outputs))
    np.testing.assert_allclose(observed.numpy(), expected, atol=2e-5 * np.abs(expected).max())
