"""Find attention as exporters write it: heads split from projections, softmax between two GEMMs.

Read through the casts of fp16 and the Q/DQ pairs of int8. Left out is attention whose query or key
is changed behind its projection (rotary embeddings, norms of heads), and grouped-query attention.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import onnx_ir as ir

from pipeline.graph.files import constant, target_sizes
from pipeline.graph.neighbours import producer_of

_TO_HEADS, _TO_KEYS = [0, 2, 1, 3], [0, 2, 3, 1]
_ROUNDING = ("Cast", "QuantizeLinear", "DequantizeLinear")


@dataclass(frozen=True, slots=True, kw_only=True)
class Projection:
    """A linear GEMM, its bias Add where there is one, and the split into heads behind them."""

    gemm: ir.Node
    bias: ir.Node | None
    split: ir.Node
    transpose: ir.Node

    @property
    def heads(self) -> ir.Value:
        """What attention reads: ``[batch, heads, sequence, size]``; a key's last two turned."""
        return self.transpose.outputs[0]


@dataclass(frozen=True, slots=True, kw_only=True)
class AttentionBlock:
    """One block of attention, from its three projections to what gives their width back."""

    query: Projection
    key: Projection
    value: Projection
    heads: int
    size: int
    scores: ir.Node
    softmax: ir.Node
    context: ir.Node
    merge: ir.Node
    last: ir.Node

    @property
    def projections(self) -> tuple[Projection, Projection, Projection]:
        """Query, key and value."""
        return self.query, self.key, self.value


def find_attention_blocks(graph: ir.Graph) -> list[AttentionBlock]:
    """Return the graph's blocks of attention that have the plain form, in graph order."""
    softmaxes = (node for node in graph if node.op_type == "Softmax")
    return [block for node in softmaxes if (block := _match(node)) is not None]


def _match(softmax: ir.Node) -> AttentionBlock | None:
    scores = _scores(softmax.inputs[0])
    context = _reader(softmax, "MatMul")
    if scores is None or context is None:
        return None
    merge = _reader(context, "Transpose")
    last = _reader(merge, "Reshape") if merge is not None else None
    if merge is None or last is None or permutation(merge) != _TO_HEADS:
        return None
    found = [
        _projection(_behind(scores.inputs[0], scaled=True), _TO_HEADS),
        _projection(_behind(scores.inputs[1], scaled=True), _TO_KEYS),
        _projection(_behind(context.inputs[1], scaled=False), _TO_HEADS),
    ]
    sizes = {size for item in found if item is not None for size in item[1:]}
    query, key, value = (item[0] if item is not None else None for item in found)
    if query is None or key is None or value is None or None in sizes:
        return None
    shapes = {item[1:] for item in found if item is not None}
    if len(shapes) != 1:
        return None
    ((heads, size),) = shapes
    width = target_sizes(last)
    if width is None or len(width) != 3 or width[2] != heads * size:
        return None
    return AttentionBlock(
        query=query,
        key=key,
        value=value,
        heads=heads,
        size=size,
        scores=scores,
        softmax=softmax,
        context=context,
        merge=merge,
        last=last,
    )


def _scores(value: ir.Value | None) -> ir.Node | None:
    """Return the GEMM of query and key behind what is added, replaced, scaled and cast."""
    node = value.producer() if value is not None else None
    if node is None:
        return None
    if node.op_type == "MatMul":
        return node if all(constant(operand) is None for operand in node.inputs) else None
    if node.op_type in ("Add", "Where"):
        return next(filter(None, map(_scores, node.inputs)), None)
    if node.op_type in ("Mul", "Div", *_ROUNDING):
        return _scores(node.inputs[0])
    return None


def _behind(value: ir.Value | None, *, scaled: bool) -> ir.Value | None:
    """Return a GEMM's operand as it was before it was rounded and, if ``scaled``, scaled."""
    skipped = ("Mul", "Div", *_ROUNDING) if scaled else _ROUNDING
    while (node := value.producer() if value is not None else None) is not None:
        if node.op_type not in skipped:
            break
        by = constant(node.inputs[1]) if node.op_type in ("Mul", "Div") else None
        if node.op_type in ("Mul", "Div") and (by is None or by.size != 1):
            break
        value = node.inputs[0]
    return value


def _projection(value: ir.Value | None, order: Sequence[int]) -> tuple[Projection, int, int] | None:
    """Return the projection whose heads ``value`` holds, how many they are and their size."""
    transpose = producer_of(value, "Transpose")
    split = producer_of(transpose.inputs[0], "Reshape") if transpose is not None else None
    if transpose is None or split is None or permutation(transpose) != list(order):
        return None
    sizes = target_sizes(split)
    if sizes is None or len(sizes) != 4 or sizes[2] is None or sizes[3] is None:
        return None
    if len(split.outputs[0].uses()) != 1:
        return None
    bias = producer_of(split.inputs[0], "Add")
    product = split.inputs[0]
    if bias is not None:
        vectors = [i for i, operand in enumerate(bias.inputs) if _is_vector(operand)]
        if len(vectors) != 1:
            return None
        product = bias.inputs[1 - vectors[0]]
    gemm = producer_of(product, "MatMul")
    inner = [node for node in (gemm, bias) if node is not None]
    if gemm is None or any(len(node.outputs[0].uses()) != 1 for node in inner):
        return None
    found = Projection(gemm=gemm, bias=bias, split=split, transpose=transpose)
    return found, sizes[2], sizes[3]


def permutation(node: ir.Node) -> list[int]:
    """Return a Transpose's order of axes."""
    attribute = node.attributes.get("perm")
    return [] if attribute is None else list(attribute.as_ints())


def _is_vector(value: ir.Value | None) -> bool:
    array = constant(value)
    return array is not None and array.ndim == 1


def _reader(node: ir.Node, op_type: str) -> ir.Node | None:
    """Return the only node that reads a node's output, rounded or not, if it is of a type."""
    while True:
        users = [use.node for use in node.outputs[0].uses()]
        if len(users) != 1 or node.outputs[0].is_graph_output():
            return None
        if users[0].op_type not in _ROUNDING:
            return users[0] if users[0].op_type == op_type else None
        node = users[0]
