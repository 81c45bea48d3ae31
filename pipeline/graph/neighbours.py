"""Step from a node to the nodes beside it: what computes its inputs, what reads its output."""

import onnx_ir as ir

from pipeline.graph.files import constant


def producer_of(value: ir.Value | None, *types: str) -> ir.Node | None:
    """Return the node that computes a value, where it is of one of the types."""
    node = value.producer() if value is not None else None
    return node if node is not None and node.op_type in types else None


def only_user(node: ir.Node, op_type: str) -> ir.Node | None:
    """Return the one node that reads a node's output, where it is of that type."""
    users = [use.node for use in node.outputs[0].uses()]
    return users[0] if len(users) == 1 and users[0].op_type == op_type else None


def unscaled(value: ir.Value | None) -> tuple[ir.Value | None, float]:
    """Peel off multiplications and divisions by a number; return what is left, and the factor."""
    factor = 1.0
    while (node := producer_of(value, "Mul", "Div")) is not None:
        number = constant(node.inputs[1])
        if number is None or number.size != 1:
            break
        by = float(number.reshape(()))
        factor *= by if node.op_type == "Mul" else 1 / by
        value = node.inputs[0]
    return value, factor
