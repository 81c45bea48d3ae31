"""Let a graph in bf16 or fp8 run where there are no such kernels: in fp32, rounded alike.

ONNX Runtime has none on CPUs. A kernel for fp8 multiplies E4M3 numbers and adds in fp32, which is
what its Q/DQ pairs say. A kernel for bf16 multiplies bf16 numbers, adds in fp32 and rounds
what it writes. So does each node here: it reads bf16 numbers as fp32, computes in fp32, and a Cast
rounds what it gives. An engine rounds less often, where it fuses several nodes into one kernel.
"""

import onnx_ir as ir

from pipeline.graph.half_types import BF16

_FLOAT = ir.DataType.FLOAT
_E4M3 = ir.DataType.FLOAT8E4M3FN
_MOVES = {
    "Concat",
    "Flatten",
    "Gather",
    "Identity",
    "Reshape",
    "Slice",
    "Split",
    "Squeeze",
    "Transpose",
    "Unsqueeze",
}
"""Operators that compute nothing; ONNX Runtime has them for bf16 as well."""


def emulate_bf16(model: ir.Model) -> int:
    """Change a graph in place so that it computes in fp32 what it computed in bf16.

    Weights stay bf16 in the file. Returns how many nodes round what they give.
    """
    graph = model.graph
    widened: dict[ir.Value, ir.Value] = {}
    rounding = 0
    for node in list(graph):
        if node.op_type in _MOVES or node.op_type == "Cast":
            continue
        for index, value in enumerate(node.inputs):
            if value is not None and value.dtype is BF16.type and node.op_type != "Shape":
                node.replace_input_with(index, _widened(graph, node, value, widened))
        for output in [v for v in node.outputs if v.dtype is BF16.type]:
            _round_behind(graph, node, output)
            rounding += 1
    return rounding


def emulate_fp8(model: ir.Model) -> int:
    """Write every Q/DQ of E4M3 as a division, two Casts and a product, in place; return how many.

    The same numbers: a Cast to E4M3 rounds and saturates as QuantizeLinear does. ONNX Runtime 1.31
    fuses and moves Q/DQ pairs as if all were of integers, and then refuses the graph.
    """
    graph = model.graph
    changed = 0
    for node in list(graph):
        if node.op_type == "QuantizeLinear" and node.outputs[0].dtype is _E4M3:
            value, scale = node.inputs[0], node.inputs[1]
            assert value is not None
            assert scale is not None
            steps = _made(graph, node, "Div", [value, scale], value.dtype)
            result = _made(graph, node, "Cast", [steps], _E4M3)
        elif node.op_type == "DequantizeLinear" and _reads_e4m3(node):
            codes, scale = node.inputs[0], node.inputs[1]
            assert codes is not None
            assert scale is not None
            steps = _made(graph, node, "Cast", [codes], scale.dtype)
            result = _made(graph, node, "Mul", [steps, scale], scale.dtype)
        else:
            continue
        node.outputs[0].replace_all_uses_with(result)
        graph.remove(node, safe=True)
        changed += 1
    return changed


def _reads_e4m3(node: ir.Node) -> bool:
    return node.inputs[0] is not None and node.inputs[0].dtype is _E4M3


def _made(
    graph: ir.Graph,
    node: ir.Node,
    op_type: str,
    inputs: list[ir.Value],
    dtype: ir.DataType | None,
) -> ir.Value:
    """Insert an operator in front of a Q or DQ node, and return what it gives."""
    assert dtype is not None
    attributes = {"to": int(dtype)} if op_type == "Cast" else {}
    made = ir.node(op_type, inputs, attributes, name=f"{node.name}.{op_type.lower()}")
    result = made.outputs[0]
    result.name, result.dtype, result.shape = f"{made.name}.given", dtype, node.outputs[0].shape
    graph.insert_before(node, made)
    return result


def _widened(
    graph: ir.Graph, node: ir.Node, value: ir.Value, widened: dict[ir.Value, ir.Value]
) -> ir.Value:
    """Return a bf16 value as fp32, behind one Cast that all its readers share."""
    if value not in widened:
        cast = ir.node("Cast", [value], {"to": int(_FLOAT)}, name=f"{value.name}.widen")
        result = cast.outputs[0]
        result.name, result.dtype, result.shape = f"{value.name}.widened", _FLOAT, value.shape
        graph.insert_before(node, cast)
        widened[value] = result
    return widened[value]


def _round_behind(graph: ir.Graph, node: ir.Node, output: ir.Value) -> None:
    """Let a node give fp32, and a Cast behind it what the node gave."""
    cast = ir.node("Cast", [output], {"to": int(BF16.type)}, name=f"{output.name}.round")
    rounded = cast.outputs[0]
    rounded.name, rounded.dtype, rounded.shape = f"{output.name}.rounded", BF16.type, output.shape
    for user, index in list(output.uses()):
        if user is not cast:
            user.replace_input_with(index, rounded)
    output.type = ir.TensorType(_FLOAT)
    graph.insert_after(node, cast)
