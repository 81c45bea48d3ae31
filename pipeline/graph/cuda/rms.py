"""``x / sqrt(mean(x^2) + epsilon) x gamma`` as one operator, ``SimplifiedLayerNormalization``.

An operator of ONNX Runtime's own in the standard domain; its kernels take the mean in fp32.
"""

import onnx_ir as ir

from pipeline.graph.cuda.take_over import take_over
from pipeline.graph.files import constant

OPERATOR = "SimplifiedLayerNormalization"


def fuse_rms(model: ir.Model) -> int:
    """Fuse every norm by the root of the mean square; return how many."""
    graph = model.graph
    fused = 0
    for scaled in [node for node in graph if node.op_type == "Mul"]:
        found = _match(scaled)
        if found is None:
            continue
        x, gamma, epsilon = found
        old = scaled.outputs[0]
        attributes = {"axis": -1, "epsilon": epsilon, "stash_type": int(ir.DataType.FLOAT)}
        node = ir.node(OPERATOR, [x, gamma], attributes, name=f"{old.name}.rms")
        new = node.outputs[0]
        graph.insert_before(scaled, node)
        take_over(old, new)
        fused += 1
    return fused


def _match(scaled: ir.Node) -> tuple[ir.Value, ir.Value, float] | None:
    """Read ``gamma x (x x 1/sqrt(mean(x^2) + epsilon))`` backwards: x, gamma and epsilon."""
    for gamma, normed in (scaled.inputs, tuple(reversed(scaled.inputs))):
        weight = constant(gamma)
        product = _producer(normed, "Mul")
        if gamma is None or weight is None or weight.ndim != 1 or product is None:
            continue
        for x, inverse in (product.inputs, tuple(reversed(product.inputs))):
            root = _producer(_input(_producer(inverse, "Reciprocal")), "Sqrt")
            total = _producer(_input(root), "Add")
            if x is None or total is None:
                continue
            epsilon = constant(total.inputs[1])
            mean = _producer(total.inputs[0], "ReduceMean")
            square = _producer(_input(mean), "Pow")
            if epsilon is None or epsilon.size != 1 or mean is None or square is None:
                continue
            if square.inputs[0] is x and _is_two(square.inputs[1]) and _is_over_last(mean):
                return x, gamma, float(epsilon.reshape(()))
    return None


def _input(node: ir.Node | None) -> ir.Value | None:
    return node.inputs[0] if node is not None else None


def _producer(value: ir.Value | None, op_type: str) -> ir.Node | None:
    node = value.producer() if value is not None else None
    return node if node is not None and node.op_type == op_type else None


def _is_two(value: ir.Value | None) -> bool:
    number = constant(value)
    return number is not None and number.size == 1 and float(number.reshape(())) == 2.0


def _is_over_last(mean: ir.Node) -> bool:
    axes = constant(mean.inputs[1]) if len(mean.inputs) > 1 else None
    shape = mean.inputs[0].shape if mean.inputs[0] is not None else None
    if axes is None or shape is None:
        return False
    return axes.reshape(-1).tolist() in ([-1], [len(shape) - 1])
