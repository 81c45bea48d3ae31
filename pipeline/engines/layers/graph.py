"""Read what a plan's ONNX graph says of its nodes: operators, sizes, linear GEMMs, attention."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.engines.layers.records import Size

if TYPE_CHECKING:
    import onnx

KEPT_FP32 = "kept_fp32"
"""Key in the metadata of nodes that the cast to fp16 leaves in fp32; the value says why."""

PACKED = "packs"
"""Key in the metadata of a MatMul that computes several at once; the value names those."""

_GEMMS = ("MatMul", "Gemm", "MatMulInteger", "FusedMatMul")
_ATTENTION = ("Attention", "MultiHeadAttention")


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeFacts:
    """One ONNX node: its place in the graph, its operator, and how much it makes."""

    place: int
    operator: str
    size: Size | None


@dataclass(frozen=True, slots=True, kw_only=True)
class GraphFacts:
    """A graph's nodes by name.

    ``gemms`` are the linear GEMMs, each with the shape of its weight; ``attention`` the nodes that
    mark an attention block each (Softmax, or the Attention operator), in order; ``products`` holds
    the two matrix products of each. ``kept_fp32`` are the matrix products that the cast to fp16
    left in fp32, and says so; ``packed`` the names of the GEMMs that one computes.
    """

    nodes: Mapping[str, NodeFacts]
    gemms: Mapping[str, tuple[int, ...]]
    attention: tuple[str, ...]
    products: Mapping[str, frozenset[str]]
    kept_fp32: tuple[str, ...] = ()
    packed: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


NO_GRAPH = GraphFacts(nodes={}, gemms={}, attention=(), products={})


def read_graph(path: Path) -> GraphFacts:
    """Return what a graph says of its nodes; the weights' values are not looked at."""
    import onnx

    graph = onnx.load(str(path), load_external_data=False).graph
    shapes = {
        value.name: [
            dim.dim_param or (dim.dim_value if dim.HasField("dim_value") else None)
            for dim in value.type.tensor_type.shape.dim
        ]
        for value in (*graph.value_info, *graph.output, *graph.input)
        if value.type.tensor_type.HasField("shape")
    }
    constants = _constants(graph, shapes)
    first = shapes.get("input_ids") or next(
        (shapes[value.name] for value in graph.input if value.name in shapes), []
    )
    symbols = tuple(str(dim) for dim in first[:2])
    nodes: dict[str, NodeFacts] = {}
    gemms: dict[str, tuple[int, ...]] = {}
    for place, node in enumerate(graph.node):
        shape = shapes.get(node.output[0])
        size = None if shape is None else _size(shape, symbols)
        nodes[node.name] = NodeFacts(place=place, operator=node.op_type, size=size)
        weight = constants.get(node.input[1]) if node.op_type in _GEMMS else None
        if weight is not None and len(weight) == 2:
            gemms[node.name] = weight
    products = _products(graph, gemms)
    kept = tuple(
        node.name
        for node in graph.node
        if any(prop.key == KEPT_FP32 for prop in node.metadata_props)
    )
    packed = {
        node.name: tuple(prop.value.split())
        for node in graph.node
        for prop in node.metadata_props
        if prop.key == PACKED
    }
    return GraphFacts(
        nodes=nodes,
        gemms=gemms,
        attention=tuple(products),
        products=products,
        kept_fp32=kept,
        packed=packed,
    )


def _constants(
    graph: "onnx.GraphProto", shapes: Mapping[str, Sequence[str | int | None]]
) -> dict[str, tuple[int, ...]]:
    """Return the shapes of constants, and of what is computed from constants alone."""
    found = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type in ("DequantizeLinear", "Cast", "Transpose", "QuantizeLinear"):
            dims = found.get(node.input[0])
            if dims is not None:
                found[node.output[0]] = dims[::-1] if node.op_type == "Transpose" else dims
        elif node.op_type in ("Concat", "Reshape") and all(name in found for name in node.input):
            shape = shapes.get(node.output[0], ())
            found[node.output[0]] = tuple(dim for dim in shape if isinstance(dim, int))
    return found


def _products(
    graph: "onnx.GraphProto", gemms: Mapping[str, tuple[int, ...]]
) -> dict[str, frozenset[str]]:
    """Return each attention block's marking node, with the matrix products before and behind it."""
    makers = {name: node for node in graph.node for name in node.output}
    readers: dict[str, list[onnx.NodeProto]] = {}
    for node in graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    blocks: dict[str, frozenset[str]] = {}
    for node in graph.node:
        if node.op_type in _ATTENTION:
            blocks[node.name] = frozenset({node.name})
        if node.op_type != "Softmax":
            continue
        before = _nearest(node, lambda n: [makers[i] for i in n.input if i in makers], gemms)
        behind = _nearest(node, lambda n: [r for o in n.output for r in readers.get(o, ())], gemms)
        if before is not None and behind is not None:
            blocks[node.name] = frozenset({before, behind})
    return blocks


def _nearest(
    start: "onnx.NodeProto",
    neighbours: "Callable[[onnx.NodeProto], list[onnx.NodeProto]]",
    gemms: Mapping[str, tuple[int, ...]],
) -> str | None:
    """Return the nearest product of two computed tensors in one direction, at most 12 steps off."""
    reached = [start]
    for _ in range(12):
        reached = [node for at in reached for node in neighbours(at)][:64]
        for node in reached:
            if node.op_type in _GEMMS:
                return None if node.name in gemms else node.name
    return None


def _size(shape: Iterable[str | int | None], symbols: tuple[str, ...]) -> Size | None:
    """Return a shape's product; an expression of a symbol (``Min(512, sequence)``) counts as it."""
    factor, b, s = 1, 0, 0
    for dim in shape:
        if isinstance(dim, int):
            factor *= dim
            continue
        if dim is None:
            return None
        words = set(re.findall(r"[A-Za-z_]\w*", dim))
        with_batch, with_sequence = (symbol in words for symbol in symbols)
        if not (with_batch or with_sequence):
            return None
        b, s = b + with_batch, s + with_sequence
        if "*" in dim:
            factor *= prod(int(number) for number in re.findall(r"\b\d+\b", dim))
    return Size(factor=factor, b=b, s=s)
