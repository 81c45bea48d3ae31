"""A residual, a bias and the norm behind them as one operator.

``SkipLayerNormalization(x, skip, gamma, beta, bias)`` is the norm of ``x + bias + skip``; its
fourth output is that sum, for graphs that norm before a block and carry the sum on. Without a mean
it is ``SkipSimplifiedLayerNormalization``.
"""

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from pipeline.graph.cuda.rms import OPERATOR as RMS
from pipeline.graph.cuda.take_over import take_over
from pipeline.graph.files import add_initializer, constant
from pipeline.graph.fuse_attention import DOMAIN

_KINDS = {
    "LayerNormalization": "SkipLayerNormalization",
    RMS: "SkipSimplifiedLayerNormalization",
}
_EPSILON = 1e-5
"""What a norm without the attribute adds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Sum:
    """``left + right + bias``, ``last`` being the Add that gives it."""

    left: ir.Value
    right: ir.Value
    bias: ir.Value | None
    last: ir.Node


def fuse_norms(model: ir.Model) -> int:
    """Fuse every norm of a sum of two tensors of its own shape; return how many."""
    graph = model.graph
    norms = [node for node in graph if node.op_type in _KINDS and _is_over_last_axis(node)]
    fused = 0
    for node in norms:
        total = _read(node.inputs[0])
        if total is not None:
            _replace(graph, node, total)
            fused += 1
    if fused:
        model.opset_imports[DOMAIN] = 1
    return fused


def _is_over_last_axis(node: ir.Node) -> bool:
    axis = node.attributes["axis"].as_int() if "axis" in node.attributes else -1
    gamma = constant(node.inputs[1]) if len(node.inputs) > 1 else None
    return axis in (-1, 2) and gamma is not None and gamma.ndim == 1


def _read(value: ir.Value | None) -> _Sum | None:
    add = value.producer() if value is not None else None
    if add is None or add.op_type != "Add" or not _is_batch(add.outputs[0]):
        return None
    left, right = add.inputs
    if left is None or right is None or not (_is_batch(left) and _is_batch(right)):
        return None
    if not _same_shape(left, right):
        return None
    for first, second in ((left, right), (right, left)):
        inner = first.producer()
        if inner is None or inner.op_type != "Add" or len(list(first.uses())) != 1:
            continue
        x, bias = inner.inputs
        if constant(x) is not None:
            x, bias = bias, x
        array = constant(bias)
        if x is not None and array is not None and array.ndim == 1 and _same_shape(x, second):
            return _Sum(left=x, right=second, bias=bias, last=add)
    return _Sum(left=left, right=right, bias=None, last=add)


def _is_batch(value: ir.Value) -> bool:
    return constant(value) is None and value.shape is not None and len(value.shape) == 3


def _same_shape(a: ir.Value, b: ir.Value) -> bool:
    """Whether neither is repeated along an axis: what is broadcast cannot be fused."""
    if a.shape is None or b.shape is None or len(a.shape) != len(b.shape):
        return False
    return list(a.shape) == list(b.shape)


def _replace(graph: ir.Graph, norm: ir.Node, total: _Sum) -> None:
    gamma = norm.inputs[1]
    beta = norm.inputs[2] if len(norm.inputs) > 2 else None
    simplified = norm.op_type == RMS
    if beta is None and not simplified:
        array = constant(gamma)
        assert array is not None
        beta = add_initializer(graph, f"{norm.outputs[0].name}.beta", np.zeros_like(array))
    affine = [gamma, total.bias] if simplified else [gamma, beta, total.bias]
    carried = [use.node for use in total.last.outputs[0].uses() if use.node is not norm]
    epsilon = norm.attributes["epsilon"].as_float() if "epsilon" in norm.attributes else _EPSILON
    node = ir.node(
        _KINDS[norm.op_type],
        [total.left, total.right, *affine],
        {"epsilon": epsilon},
        domain=DOMAIN,
        num_outputs=4 if carried else 1,
        name=f"{norm.outputs[0].name}.skip",
    )
    pairs = [(norm.outputs[0], node.outputs[0])]
    if carried:
        for unused in node.outputs[1:3]:
            unused.name = ""
        pairs.append((total.last.outputs[0], node.outputs[3]))
    # The sum's other users may come before the norm: the fused operator stands where the sum did,
    # behind the later of its inputs, which it is.
    graph.insert_before(total.last, node)
    for old, new in pairs:
        take_over(old, new)
