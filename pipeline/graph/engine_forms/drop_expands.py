"""Elementwise operators broadcast by themselves: nothing is repeated for them first.

Exporters write an Expand where PyTorch says ``expand_as``: a bias of the scores for every row of
the batch, the norm of a vector for every channel.
"""

import onnx_ir as ir

from pipeline.graph.files import constant

_ELEMENTWISE = ("Add", "Sub", "Mul", "Div")


def drop_expands(graph: ir.Graph) -> int:
    """Let elementwise operators read what an Expand repeats for them; return how many were dropped.

    The other operand must have the full shape already, dimension by dimension.
    """
    dropped = 0
    for node in [node for node in graph if node.op_type == "Expand"]:
        inner, full = node.inputs[0], node.outputs[0]
        uses = list(full.uses())
        if inner is None or full.is_graph_output() or not uses:
            continue
        if all(_is_full(use.node, use.idx, full) for use in uses):
            full.replace_all_uses_with(inner)
            dropped += 1
    return dropped


def _is_full(user: ir.Node, index: int, full: ir.Value) -> bool:
    """Whether a user's other operand has the shape that the Expand gives."""
    if user.op_type not in _ELEMENTWISE:
        return False
    other = user.inputs[1 - index]
    if other is None or other.shape is None or full.shape is None or constant(other) is not None:
        return False
    known = all(
        isinstance(dim, int) or dim.value is not None for dim in (*other.shape, *full.shape)
    )
    return known and list(other.shape) == list(full.shape)
