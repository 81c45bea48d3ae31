"""Numbers of a shape that tensors are computed with, made where those tensors are.

ONNX Runtime computes with shapes on the CPU. A kernel that takes such a number as a tensor makes it
copy: last-token pooling subtracts a position from the number of tokens. What copies while it runs
gets no CUDA graph. ``Range`` reads its ends on the CPU and writes on the GPU.
"""

from collections.abc import Iterator

import numpy as np
import onnx_ir as ir

from pipeline.graph.files import add_initializer, constant

_READ_ON_HOST = {
    "ConstantOfShape": {0},
    "CumSum": {1},
    "Expand": {1},
    "Pad": {1, 2, 3},
    "Range": {0, 1, 2},
    "Reshape": {1},
    "Slice": {1, 2, 3, 4},
    "Split": {1},
    "Squeeze": {1},
    "Tile": {1},
    "TopK": {1},
    "Unsqueeze": {1},
}
"""Which inputs CUDA's kernels take from the CPU, by operator; a reduction's axes are constants."""

_FROM_HOST = {"ConstantOfShape", "Range"}
"""Operators that make tensors of numbers on the host."""


def make_on_device(model: ir.Model) -> int:
    """Make every such number on the device; return how many there were."""
    graph = model.graph
    uses = list(_uses_on_device(graph))
    made: dict[ir.Value, ir.Value] = {}
    for value, node, index in uses:
        if value not in made:
            made[value] = _make(graph, value)
        node.replace_input_with(index, made[value])
    return len(made)


def _uses_on_device(graph: ir.Graph) -> Iterator[tuple[ir.Value, ir.Node, int]]:
    """Yield each use of a number on the host by a node that wants it on the device."""
    host: set[ir.Value] = set()
    for node in graph:
        computed = [v for v in node.inputs if v is not None and constant(v) is None]
        on_host = node.op_type == "Shape" or (computed and host.issuperset(computed))
        if on_host and node.op_type not in _FROM_HOST:
            host.update(node.outputs)
            continue
        for index, value in enumerate(node.inputs):
            if value in host and index not in _READ_ON_HOST.get(node.op_type, ()):
                assert value is not None
                if value.shape is not None and not len(value.shape):
                    yield value, node, index


def _make(graph: ir.Graph, value: ir.Value) -> ir.Value:
    """Return ``Squeeze(Range(value, value + 1, 1))``."""
    name = f"{value.name}.on_device"
    one = add_initializer(graph, f"{name}.one", np.array(1, np.int64))
    after, dtype = value.producer(), value.dtype or ir.DataType.INT64
    assert after is not None
    end = ir.node("Add", [value, one], name=f"{name}.end")
    alone = ir.node("Range", [value, end.outputs[0], one], name=f"{name}.alone")
    number = ir.node("Squeeze", [alone.outputs[0]], name=name)
    for node, shape in ((end, ()), (alone, (1,)), (number, ())):
        output = node.outputs[0]
        output.name, output.dtype, output.shape = node.name, dtype, ir.Shape(shape)
    graph.insert_after(after, [end, alone, number])
    return number.outputs[0]
