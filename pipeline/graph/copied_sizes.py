"""Let a Reshape copy the sizes that an exporter reads back from its input at run time.

A value whose shape is read is held to be wanted as it is, which keeps attention from being fused.
"""

import numpy as np
import onnx_ir as ir

from pipeline.graph.files import add_initializer, constant
from pipeline.graph.neighbours import producer_of


def copy_sizes(graph: ir.Graph) -> int:
    """Write targets as ``[0, 0, 384]``, where 0 copies a size; return how many were replaced.

    A target is replaced where each of its parts is a number or the size of the same axis of the
    Reshape's own input.
    """
    replaced = 0
    for node in list(graph):
        if node.op_type != "Reshape" or _keeps_zeros(node):
            continue
        target = node.inputs[1]
        concat = producer_of(target, "Concat")
        if concat is None:
            continue
        sizes: list[int] = []
        for part in concat.inputs:
            known = constant(part)
            if known is not None:
                sizes += map(int, known)
            elif _reads_axis(part, node.inputs[0]) == len(sizes):
                sizes.append(0)
            else:
                break
        else:
            name = f"{node.outputs[0].name}.sizes"
            node.replace_input_with(1, add_initializer(graph, name, np.array(sizes, np.int64)))
            replaced += 1
    return replaced


def _keeps_zeros(node: ir.Node) -> bool:
    allowzero = node.attributes.get("allowzero")
    return allowzero is not None and allowzero.as_int() != 0


def _reads_axis(part: ir.Value | None, value: ir.Value | None) -> int | None:
    """Return which axis of ``value`` a ``[1]`` part of a target is the size of, None if of none."""
    unsqueeze = producer_of(part, "Unsqueeze")
    gather = producer_of(unsqueeze.inputs[0], "Gather") if unsqueeze is not None else None
    shape = producer_of(gather.inputs[0], "Shape") if gather is not None else None
    if gather is None or shape is None or shape.inputs[0] is not value or shape.attributes:
        return None
    axis = constant(gather.inputs[1])
    return int(axis) if axis is not None and axis.ndim == 0 else None
