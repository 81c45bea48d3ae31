"""What hides scores: 0, or a number far below any of them, which the cast to fp16 replaces.

Exporters write fp32's lowest number. Causal and local masks hide something in every text, so it is
seen, and a tensor that reaches so far would keep attention in fp32, which runs slower kernels.
"""

import onnx_ir as ir

from pipeline.graph.files import constant
from pipeline.graph.half import MASK_VALUE
from pipeline.graph.neighbours import producer_of

_ADDED = 5
"""Which input of the attention operators is added to the scores."""


def find_masks(model: ir.Model) -> set[str]:
    """Return the names of what attention adds to its scores and only hides some."""
    added = [
        node.inputs[_ADDED]
        for node in model.graph
        if node.op_type in ("Attention", "MultiHeadAttention") and len(node.inputs) > _ADDED
    ]
    return {value.name or "" for value in added if value is not None and _only_hides(value)}


def _only_hides(value: ir.Value) -> bool:
    where = producer_of(value, "Where")
    if where is None:
        return False
    numbers = [constant(branch) for branch in where.inputs[1:]]
    values = [float(n.reshape(())) for n in numbers if n is not None and n.size == 1]
    return len(values) == 2 and max(values) == 0 and min(values) < MASK_VALUE
