"""Keep ONNX Runtime from fusing what it then runs more slowly.

On CPUs its ``SkipLayerNormalization`` takes four times as long as an Add and a
``LayerNormalization``, and its ``BiasGelu`` one and a half times an Add and a ``Gelu``: the fused
loops are not vectorized (docs/cpu_speed.md has the figures). A Reshape to the same shape between
the two hides the pattern from the fusion and costs nothing.
"""

import numpy as np
import onnx_ir as ir

from pipeline.graph.files import add_initializer

_SLOWER_FUSED = ("Gelu", "LayerNormalization")
_SAME_SHAPE = np.array([0, 0, -1], np.int64)


def keep_apart(graph: ir.Graph) -> int:
    """Separate every Add from the Gelu or LayerNormalization behind it; return how many."""
    pairs = [node for node in graph if node.op_type in _SLOWER_FUSED and _follows_add(node)]
    if not pairs:
        return 0
    shape = add_initializer(graph, "same_shape", _SAME_SHAPE)
    for node in pairs:
        value = node.inputs[0]
        assert value is not None
        reshape = ir.node("Reshape", [value, shape], name=f"{value.name}.same_shape")
        same = reshape.outputs[0]
        same.name, same.type, same.shape = f"{value.name}.same_shape", value.type, value.shape
        graph.insert_before(node, reshape)
        node.replace_input_with(0, same)
    return len(pairs)


def _follows_add(node: ir.Node) -> bool:
    value = node.inputs[0]
    producer = value.producer() if value is not None else None
    return (
        value is not None
        and value.shape is not None
        and len(value.shape) == 3
        and producer is not None
        and producer.op_type == "Add"
    )
