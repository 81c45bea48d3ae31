"""A bias and the GELU behind it as one operator: ``BiasGelu``, and by tanh ``FastGelu``."""

import onnx_ir as ir

from pipeline.graph.cuda.take_over import take_over
from pipeline.graph.files import constant
from pipeline.graph.fuse_attention import DOMAIN


def fuse_activations(model: ir.Model) -> int:
    """Fuse every GELU of a sum with a vector; return how many."""
    graph = model.graph
    fused = 0
    for gelu in [node for node in graph if node.op_type == "Gelu"]:
        value = gelu.inputs[0]
        add = value.producer() if value is not None else None
        if value is None or add is None or add.op_type != "Add" or len(list(value.uses())) != 1:
            continue
        x, bias = add.inputs
        if constant(x) is not None:
            x, bias = bias, x
        array = constant(bias)
        if array is None or array.ndim != 1:
            continue
        tanh = "approximate" in gelu.attributes and (
            gelu.attributes["approximate"].as_string() == "tanh"
        )
        old = gelu.outputs[0]
        kind = "FastGelu" if tanh else "BiasGelu"
        node = ir.node(kind, [x, bias], domain=DOMAIN, name=f"{old.name}.bias")
        new = node.outputs[0]
        graph.insert_before(gelu, node)
        take_over(old, new)
        fused += 1
    if fused:
        model.opset_imports[DOMAIN] = 1
    return fused
