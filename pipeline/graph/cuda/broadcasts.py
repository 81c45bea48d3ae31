"""Products that share one side over a part of their batch, with that side repeated.

A product whose sides have the same batch, or one of which has none, is one call of cuBLAS with
strides. Of others ONNX Runtime copies a table of addresses from the CPU at each run, and a CUDA
graph would read that table again when it is gone. DeBERTa multiplies each text's queries with one
table of positions a head: ``[batch, heads, tokens, size]`` by ``[1, heads, size, positions]``.
"""

import numpy as np
import onnx_ir as ir

from pipeline.graph.files import add_initializer, insert_before


def repeat_shared_sides(model: ir.Model) -> int:
    """Repeat what such a product shares, in place; return how many sides there were."""
    graph, made = model.graph, 0
    for node in [node for node in graph if node.op_type == "MatMul"]:
        for side in (0, 1):
            shared, other = node.inputs[side], node.inputs[1 - side]
            if shared is not None and other is not None and _is_shared(shared, other):
                _repeat(graph, node, side, shared, other)
                made += 1
    return made


def _is_shared(shared: ir.Value, other: ir.Value) -> bool:
    """Whether one side is the same over some, not all, of the batch that the other side has."""
    if shared.shape is None or other.shape is None:
        return False
    own, theirs = _batch(shared.shape, other.shape), _batch(other.shape, shared.shape)
    if all(size == 1 for size in own) or all(size == 1 for size in theirs):
        return False
    return any(a == 1 and b != 1 for a, b in zip(own, theirs, strict=True))


def _repeat(graph: ir.Graph, node: ir.Node, side: int, shared: ir.Value, other: ir.Value) -> None:
    assert shared.shape is not None
    assert other.shape is not None
    name = f"{node.outputs[0].name}.side{side}"
    batch = ir.node("Shape", [other], {"start": 0, "end": -2}, name=f"{name}.batch")
    ones = add_initializer(graph, f"{name}.ones", np.ones(2, np.int64))
    sizes = ir.node("Concat", [batch.outputs[0], ones], {"axis": 0}, name=f"{name}.sizes")
    whole = ir.node("Expand", [shared, sizes.outputs[0]], name=f"{name}.whole")
    count = len(other.shape) - 2
    for made, length in ((batch, count), (sizes, count + 2)):
        output = made.outputs[0]
        output.name, output.dtype, output.shape = made.name, ir.DataType.INT64, ir.Shape([length])
    repeated_side = whole.outputs[0]
    repeated_side.name, repeated_side.type = whole.name, shared.type
    own, theirs = _batch(shared.shape, other.shape), _batch(other.shape, shared.shape)
    batches = [b if a == 1 else a for a, b in zip(own, theirs, strict=True)]
    repeated_side.shape = ir.Shape([*batches, *list(shared.shape)[-2:]])
    insert_before(graph, node, [batch, sizes, whole])
    node.replace_input_with(side, repeated_side)


def _batch(shape: ir.Shape, other: ir.Shape) -> list[int | ir.SymbolicDim]:
    """Return the batch of one side of a product, as long as the other's."""
    missing: list[int | ir.SymbolicDim] = [1] * (len(other) - len(shape))
    return [*missing, *list(shape)[:-2]]
