"""Attention with its projections as one operator, and padding as one length a text.

``fuse_attention`` has found the blocks. Where query, key and value are projected from one tensor,
``Attention`` takes their weights side by side: one GEMM instead of three, and kernels that read
lengths do not touch padding. Lengths say what a mask does only where padding is on the right.

The form of the lengths decides which kernel runs (``attention.cc``, ONNX Runtime 1.31). ``[batch]``
is for TensorRT's fused kernels (compute capability 7.5 to 8.9) and cuDNN's (from 9.0). The former
add nothing to scores. Where something is added it is ``[3 x batch + 2]``, lengths and where each
text begins, which the memory-efficient kernel reads on all of them.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from pipeline.graph.cuda.take_over import take_over
from pipeline.graph.files import add_initializer, constant, insert_before
from pipeline.graph.fuse_attention import DOMAIN

FloatArray = npt.NDArray[np.floating]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Projection:
    """``source x weight + bias``."""

    source: ir.Value
    weight: FloatArray
    bias: FloatArray


def pack_attention(model: ir.Model, *, right_padded: bool) -> int:
    """Merge projections into attention in place; return how many blocks were packed.

    With ``right_padded`` every block, packed or not, reads lengths instead of a mask.
    """
    graph = model.graph
    blocks = [node for node in graph if node.op_type == "MultiHeadAttention"]
    masked = [node for node in blocks if node.inputs[4] is not None]
    if masked and right_padded:
        lengths = _add_lengths(graph)
        biased = [node for node in masked if len(node.inputs) > 5 and node.inputs[5] is not None]
        for node in masked:
            node.replace_input_with(4, lengths)
        if biased:
            starts = _add_starts(graph, lengths)
            for node in biased:
                node.replace_input_with(4, starts)
    return sum(_pack(graph, node) for node in masked)


def _add_lengths(graph: ir.Graph) -> ir.Value:
    """Add ``[batch]`` int32: how many tokens a text has, at least one, or softmax gives NaN."""
    mask = next(value for value in graph.inputs if value.name == "attention_mask")
    axis = add_initializer(graph, "lengths.axis", np.array([1], np.int64))
    one = add_initializer(graph, "lengths.least", np.array(1, np.int64))
    total = ir.node("ReduceSum", [mask, axis], {"keepdims": 0}, name="lengths.sum")
    least = ir.node("Max", [total.outputs[0], one], name="lengths.max")
    narrow = ir.node(
        "Cast", [least.outputs[0]], {"to": int(ir.DataType.INT32)}, name="lengths.int32"
    )
    batch = ir.Shape([mask.shape[0]]) if mask.shape is not None else None
    for node, dtype in (
        (total, ir.DataType.INT64),
        (least, ir.DataType.INT64),
        (narrow, ir.DataType.INT32),
    ):
        value = node.outputs[0]
        value.name, value.dtype, value.shape = node.name, dtype, batch
    insert_before(graph, graph[0], [total, least, narrow])
    return narrow.outputs[0]


def _add_starts(graph: ir.Graph, lengths: ir.Value) -> ir.Value:
    """Add ``[3 x batch + 2]`` int32: lengths, and twice where each text begins and the last ends.

    Once for queries, once for keys; counted in tokens of the padded batch.
    """
    mask = next(value for value in graph.inputs if value.name == "attention_mask")
    numbers = {
        name: add_initializer(graph, f"starts.{name}", np.array(number, np.int64))
        for name, number in (("zero", 0), ("one", 1))
    }
    nodes: list[ir.Node] = []

    def step(
        kind: str, name: str, inputs: list[ir.Value], shape: list[None], **attributes: int
    ) -> ir.Value:
        node = ir.node(kind, inputs, attributes, name=f"starts.{name}")
        output = node.outputs[0]
        whole = kind in ("Cast", "Concat")
        output.dtype = ir.DataType.INT32 if whole else ir.DataType.INT64
        output.name, output.shape = node.name, ir.Shape(shape)
        nodes.append(node)
        return output

    sizes = step("Shape", "sizes", [mask], [None])
    batch = step("Gather", "batch", [sizes, numbers["zero"]], [])
    tokens = step("Gather", "tokens", [sizes, numbers["one"]], [])
    total = step("Mul", "total", [batch, tokens], [])
    end = step("Add", "end", [total, numbers["one"]], [])
    wide = step("Range", "range", [numbers["zero"], end, tokens], [None])
    starts = step("Cast", "int32", [wide], [None], to=int(ir.DataType.INT32))
    step("Concat", "lengths", [lengths, starts, starts], [None], axis=0)
    after = lengths.producer()
    assert after is not None
    graph.insert_after(after, nodes)
    return nodes[-1].outputs[0]


def _pack(graph: ir.Graph, node: ir.Node) -> bool:
    """Replace a block by one that projects its own query, key and value, where it can be."""
    found = [_projection(value) for value in node.inputs[:3]]
    parts = [part for part in found if part is not None]
    if len(parts) < 3 or any(part.source is not parts[0].source for part in parts):
        return False
    sizes = [part.weight.shape[1] for part in parts]
    if sizes[0] != sizes[1]:
        return False
    name = node.outputs[0].name
    weight = add_initializer(
        graph, f"{name}.qkv.weight", np.concatenate([part.weight for part in parts], axis=1)
    )
    bias = add_initializer(graph, f"{name}.qkv.bias", np.concatenate([part.bias for part in parts]))
    attributes: dict[str, int | float | list[int]] = {
        "num_heads": node.attributes["num_heads"].as_int(),
        "scale": node.attributes["scale"].as_float(),
        "qkv_hidden_sizes": sizes,
    }
    added = node.inputs[5] if len(node.inputs) > 5 else None
    inputs = [parts[0].source, weight, bias, node.inputs[4], None, added]
    packed = ir.node("Attention", inputs, attributes, domain=DOMAIN, name=f"{name}.packed")
    old, new = node.outputs[0], packed.outputs[0]
    graph.insert_before(node, packed)
    take_over(old, new)
    return True


def _projection(value: ir.Value | None) -> _Projection | None:
    """Read ``Add(MatMul(source, weight), bias)``; without a bias it is zero."""
    node = value.producer() if value is not None else None
    bias: FloatArray | None = None
    if node is not None and node.op_type == "Add":
        left, right = node.inputs
        if constant(left) is not None:
            left, right = right, left
        bias = constant(right)
        if bias is None or bias.ndim != 1:
            return None
        node = left.producer() if left is not None else None
    if node is None or node.op_type != "MatMul":
        return None
    source, weight = node.inputs[0], constant(node.inputs[1])
    if source is None or weight is None or weight.ndim != 2:
        return None
    if bias is None:
        bias = np.zeros(weight.shape[1], weight.dtype)
    return _Projection(source=source, weight=weight, bias=bias)
