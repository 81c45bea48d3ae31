"""Attention over ``[batch x heads, …]``, a view of ``[sequence, batch x heads, 3 x size]``.

Only its scores get their four axes, for the mask and a bias that are added to them.
"""

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from pipeline.graph.engine_forms.pack_projections import PackedAttention
from pipeline.graph.files import add_initializer

Dim = int | str | None


def turn_heads(graph: ir.Graph, packed: Sequence[PackedAttention]) -> None:
    """Let every block read tokens that lie sequence first, and give them back so."""
    ids = next(value for value in graph.inputs if value.name == "input_ids")
    batch, sequence = (_name(dim) for dim in ids.shape or (None, None))
    length = ir.node("Shape", [ids], {"start": 1, "end": 2}, name="sequence_length")
    minus_one = add_initializer(graph, "joined", np.array([-1]))
    flat = _shape("scores_by_row", [minus_one, length.outputs[0], length.outputs[0]])
    first = graph[0]
    graph.insert_before(first, length)
    graph.insert_before(first, flat)
    by_heads: dict[int, ir.Node] = {}
    for item in packed:
        heads = item.block.heads
        if heads not in by_heads:
            number = add_initializer(graph, f"heads.{heads}", np.array([heads]))
            parts = [minus_one, number, length.outputs[0], length.outputs[0]]
            by_heads[heads] = _shape(f"scores_of_{heads}_heads", parts)
            graph.insert_before(first, by_heads[heads])
        rows = None if batch is None else f"{heads}*{batch}"
        _turn(graph, item, rows, sequence, flat.outputs[0], by_heads[heads].outputs[0])


def _name(dim: "int | ir.SymbolicDim | None") -> Dim:
    return dim.value if isinstance(dim, ir.SymbolicDim) else dim


def _shape(name: str, parts: Sequence[ir.Value]) -> ir.Node:
    node = ir.node("Concat", parts, {"axis": 0}, name=name)
    node.outputs[0].name, node.outputs[0].dtype = name, ir.DataType.INT64
    return node


def _turn(
    graph: ir.Graph,
    item: PackedAttention,
    rows: Dim,
    sequence: Dim,
    flat: ir.Value,
    by_heads: ir.Value,
) -> None:
    """Rewrite one block; ``rows`` is batch times heads."""
    block, size, name = item.block, item.block.size, item.view.name
    target = add_initializer(graph, f"{name}.target", np.array([0, -1, 3 * size]))
    item.view.replace_input_with(1, target)
    _set_shape(item.view, sequence, rows, 3 * size)
    item.cut.replace_input_with(0, item.view.outputs[0])
    query, key, value = item.cut.outputs
    for part in (query, value):
        _by_head(graph, part, [rows, sequence, size])
    for part in (query, key, value):
        part.shape = ir.Shape([sequence, rows, size])
    item.back.attributes["perm"] = ir.AttrInt64s("perm", [1, 2, 0])
    _set_shape(item.back, rows, size, sequence)
    for operand, dims in zip(
        block.scores.inputs, ([rows, sequence, size], [rows, size, sequence]), strict=True
    ):
        assert operand is not None
        operand.shape = ir.Shape(dims)  # scaled, or as it is

    scores = block.scores.outputs[0]
    readers = list(scores.uses())
    apart = ir.node("Reshape", [scores, by_heads], name=f"{block.scores.name}.by_heads")
    _like(apart, scores)
    for use in readers:
        use.node.replace_input_with(use.idx, apart.outputs[0])
    graph.insert_after(block.scores, apart)
    _set_shape(block.scores, rows, sequence, sequence)

    probabilities = block.context.inputs[0]
    assert probabilities is not None
    joined = ir.node("Reshape", [probabilities, flat], name=f"{block.context.name}.by_row")
    _like(joined, probabilities)
    _set_shape(joined, rows, sequence, sequence)
    graph.insert_before(block.context, joined)
    block.context.replace_input_with(0, joined.outputs[0])
    _set_shape(block.context, rows, sequence, size)

    block.merge.attributes["perm"] = ir.AttrInt64s("perm", [1, 0, 2])
    _set_shape(block.merge, sequence, rows, size)
    width = np.array([0, -1, block.heads * size])
    block.last.replace_input_with(1, add_initializer(graph, f"{name}.width", width))
    block.last.attributes.pop("allowzero", None)


def _by_head(graph: ir.Graph, part: ir.Value, dims: Sequence[Dim]) -> None:
    """Put a transposed view of a query or value before its readers."""
    readers = list(part.uses())
    turn = ir.node("Transpose", [part], {"perm": [1, 0, 2]}, name=f"{part.name}.by_head")
    _like(turn, part)
    _set_shape(turn, *dims)
    producer = part.producer()
    assert producer is not None
    graph.insert_after(producer, turn)
    for use in readers:
        use.node.replace_input_with(use.idx, turn.outputs[0])


def _like(node: ir.Node, value: ir.Value) -> None:
    made = node.outputs[0]
    made.name, made.type, made.shape = f"{node.name}", value.type, value.shape


def _set_shape(node: ir.Node, *dims: Dim) -> None:
    node.outputs[0].shape = ir.Shape(dims)
