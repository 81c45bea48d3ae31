"""Find norms by the root of the mean square: ``gamma x (x x 1/sqrt(mean(x^2) + epsilon))``.

Exporters write them in seven operators, ONNX's RMSNormalization (opset 23) is one of them.
"""

from dataclasses import dataclass

import onnx_ir as ir

from pipeline.graph.files import constant
from pipeline.graph.neighbours import producer_of


@dataclass(frozen=True, slots=True, kw_only=True)
class RmsNorm:
    """One norm in open code: what it multiplies with, and its nodes from the square to gamma."""

    gamma: ir.Value
    epsilon: float
    nodes: tuple[ir.Node, ...]

    @property
    def x(self) -> ir.Value | None:
        """What is normalized."""
        return self.nodes[0].inputs[0]

    @property
    def scaled(self) -> ir.Node:
        """The node that gives the result."""
        return self.nodes[-1]


def find_rms_norms(graph: ir.Graph) -> list[RmsNorm]:
    """Return the graph's norms in open code, in graph order."""
    products = (node for node in graph if node.op_type == "Mul")
    return [norm for node in products if (norm := _match(node)) is not None]


def _match(scaled: ir.Node) -> RmsNorm | None:
    """Read a norm backwards from the product with gamma, either operand first."""
    for gamma, normed in (scaled.inputs, tuple(reversed(scaled.inputs))):
        weight = constant(gamma)
        product = producer_of(normed, "Mul")
        if gamma is None or weight is None or weight.ndim != 1 or product is None:
            continue
        for x, inverse in (product.inputs, tuple(reversed(product.inputs))):
            inverted = producer_of(inverse, "Reciprocal")
            root = producer_of(_input(inverted), "Sqrt")
            total = producer_of(_input(root), "Add")
            if x is None or inverted is None or root is None or total is None:
                continue
            epsilon = constant(total.inputs[1])
            mean = producer_of(total.inputs[0], "ReduceMean")
            square = producer_of(_input(mean), "Pow")
            if epsilon is None or epsilon.size != 1 or mean is None or square is None:
                continue
            if square.inputs[0] is x and _is_two(square.inputs[1]) and _is_over_last(mean):
                nodes = (square, mean, total, root, inverted, product, scaled)
                return RmsNorm(gamma=gamma, epsilon=float(epsilon.reshape(())), nodes=nodes)
    return None


def _input(node: ir.Node | None) -> ir.Value | None:
    return node.inputs[0] if node is not None else None


def _is_two(value: ir.Value | None) -> bool:
    number = constant(value)
    return number is not None and number.size == 1 and float(number.reshape(())) == 2.0


def _is_over_last(mean: ir.Node) -> bool:
    axes = constant(mean.inputs[1]) if len(mean.inputs) > 1 else None
    shape = mean.inputs[0].shape if mean.inputs[0] is not None else None
    if axes is None or shape is None:
        return False
    return axes.reshape(-1).tolist() in ([-1], [len(shape) - 1])
