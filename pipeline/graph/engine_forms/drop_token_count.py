"""Mean pooling in front of a normalization needs no mean: the length of the vector cancels.

``normalize(sum / count) = normalize(sum)``, as the count is a positive number a row. What differs
is a vector shorter than the normalization's own bound (1e-12).
"""

import onnx_ir as ir

from pipeline.graph.files import constant

_BOUNDS = ("Clip", "Max")


def drop_token_count(graph: ir.Graph) -> int:
    """Drop divisions by a positive number a row that a normalization undoes; return how many."""
    found = [node for node in graph if node.op_type == "Div" and _cancels(node)]
    for node in found:
        total = node.inputs[0]
        assert total is not None
        node.outputs[0].replace_all_uses_with(total)
    return len(found)


def _cancels(division: ir.Node) -> bool:
    value, count = division.outputs[0], division.inputs[1]
    if value.is_graph_output() or not _is_positive(count) or not _is_one_a_row(count):
        return False
    readers = [use.node for use in value.uses()]
    norms = [node for node in readers if node.op_type == "ReduceL2" and _is_over_channels(node)]
    ends = [node for node in readers if node.op_type == "Div" and node.inputs[0] is value]
    if len(readers) != 2 or len(norms) != 1 or len(ends) != 1:
        return False
    bounded = ends[0].inputs[1]
    bound = bounded.producer() if bounded is not None else None
    return (
        bound is not None
        and bound.op_type in _BOUNDS
        and bound.inputs[0] is norms[0].outputs[0]
        and len(norms[0].outputs[0].uses()) == 1
    )


def _is_positive(value: ir.Value | None) -> bool:
    """Whether a value is bounded from below by a positive number."""
    node = value.producer() if value is not None else None
    if node is not None and node.op_type == "Sqrt":
        return _is_positive(node.inputs[0])
    if node is None or node.op_type not in _BOUNDS or len(node.inputs) < 2:
        return False
    least = constant(node.inputs[1])
    return least is not None and bool((least > 0).all())


def _is_one_a_row(value: ir.Value | None) -> bool:
    shape = value.shape if value is not None else None
    return shape is not None and len(shape) == 2 and shape[1] == 1


def _is_over_channels(norm: ir.Node) -> bool:
    keep = norm.attributes.get("keepdims")
    axes = constant(norm.inputs[1]) if len(norm.inputs) > 1 else None
    value = norm.inputs[0]
    rank = len(value.shape) if value is not None and value.shape is not None else 0
    last = axes is not None and axes.size == 1 and int(axes.reshape(())) in (-1, rank - 1)
    return rank == 2 and last and (keep is None or keep.as_int() == 1)
