"""Norms by the root of the mean square as one operator, ``SimplifiedLayerNormalization``.

An operator of ONNX Runtime's own in the standard domain; its kernels take the mean in fp32.
"""

import onnx_ir as ir

from pipeline.graph.cuda.take_over import take_over
from pipeline.graph.rms_norms import find_rms_norms

OPERATOR = "SimplifiedLayerNormalization"


def fuse_rms(model: ir.Model) -> int:
    """Fuse every norm by the root of the mean square; return how many."""
    found = find_rms_norms(model.graph)
    for norm in found:
        old = norm.scaled.outputs[0]
        attributes = {"axis": -1, "epsilon": norm.epsilon, "stash_type": int(ir.DataType.FLOAT)}
        node = ir.node(OPERATOR, [norm.x, norm.gamma], attributes, name=f"{old.name}.rms")
        model.graph.insert_before(norm.scaled, node)
        take_over(old, node.outputs[0])
    return len(found)
