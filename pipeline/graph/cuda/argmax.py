"""``ArgMax`` in operators that CUDA has: which token a mask shows first, as poolings ask.

ONNX Runtime's CUDA provider knows ``ArgMax`` of floats alone. Of integers it runs on the CPU, and
what does not run on CUDA whole gets no CUDA graphs. Nor is it said which of equal values cuDNN
takes, where ONNX means the first.
"""

import numpy as np
import onnx_ir as ir

from pipeline.graph.cuda.take_over import take_over
from pipeline.graph.files import add_initializer, insert_before

_BEHIND_EVERY = np.iinfo(np.int32).max
_BEFORE_EVERY = -1


def replace_argmax(model: ir.Model) -> int:
    """Replace every ArgMax over the last axis; return how many."""
    graph = model.graph
    found = [node for node in graph if node.op_type == "ArgMax" and _is_over_last_axis(node)]
    for node in found:
        _replace(graph, node)
    return len(found)


def _is_over_last_axis(node: ir.Node) -> bool:
    value = node.inputs[0]
    if value is None or value.shape is None or value.dtype is None:
        return False
    return _number(node, "axis", 0) in (-1, len(value.shape) - 1)


def _number(node: ir.Node, name: str, default: int) -> int:
    return node.attributes[name].as_int() if name in node.attributes else default


def _replace(graph: ir.Graph, argmax: ir.Node) -> None:
    """Take the smallest position, or the largest, at which the largest value stands."""
    old, values = argmax.outputs[0], argmax.inputs[0]
    assert values is not None
    assert values.shape is not None
    last = bool(_number(argmax, "select_last_index", 0))
    added = [
        add_initializer(graph, f"{old.name}.{name}", np.array(number, np.int64))
        for name, number in (
            ("axis", [-1]),
            ("zero", 0),
            ("one", 1),
            ("elsewhere", _BEFORE_EVERY if last else _BEHIND_EVERY),
        )
    ]
    axis, zero, one, elsewhere = added
    whole, one_each = values.shape, ir.Shape([*values.shape[:-1], 1])
    nodes: list[ir.Node] = []

    def step(
        kind: str,
        inputs: list[ir.Value],
        dtype: ir.DataType | None,
        shape: ir.Shape,
        attributes: dict[str, int] | None = None,
    ) -> ir.Value:
        node = ir.node(kind, inputs, attributes or {}, name=f"{old.name}.{len(nodes)}")
        output = node.outputs[0]
        assert dtype is not None
        output.name, output.type, output.shape = node.name, ir.TensorType(dtype), shape
        nodes.append(node)
        return output

    count = step("Shape", [values], ir.DataType.INT64, ir.Shape([1]), {"start": -1})
    end = step("Squeeze", [count], ir.DataType.INT64, ir.Shape([]))
    positions = step("Range", [zero, end, one], ir.DataType.INT64, ir.Shape([whole[-1]]))
    largest = step("ReduceMax", [values, axis], values.dtype, one_each)
    is_largest = step("Equal", [values, largest], ir.DataType.BOOL, whole)
    where = step("Where", [is_largest, positions, elsewhere], ir.DataType.INT64, whole)
    keepdims = {"keepdims": _number(argmax, "keepdims", 1)}
    kind = "ReduceMax" if last else "ReduceMin"
    found = step(kind, [where, axis], ir.DataType.INT64, one_each, keepdims)
    insert_before(graph, argmax, nodes)
    take_over(old, found)
