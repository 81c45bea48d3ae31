"""Token tensors as ``[sequence, batch, channels]``, as TensorRT's attention kernels take them.

Its fused attention reads and writes heads as ``[sequence, batch x heads, size]``. Where tokens lie
batch first it moves them for every block and, in int8, in a kernel of its own. With the sequence
first all the way from embeddings to pooling, heads and channels are two views of one tensor.
"""

from collections.abc import Sequence

import onnx_ir as ir

from pipeline.graph.engine_forms.heads_in_sequence import turn_heads
from pipeline.graph.engine_forms.pack_projections import PackedAttention
from pipeline.graph.files import constant

_NORMS = ("LayerNormalization", "RMSNormalization", "SimplifiedLayerNormalization")
_ROUNDING = ("Cast", "QuantizeLinear", "DequantizeLinear")
_ELEMENTWISE = {
    "Add", "Clip", "Div", "Erf", "Gelu", "Identity", "Max", "Min", "Mul", "Neg", "Pow", "Relu",
    "Sigmoid", "Sqrt", "Sub", "Tanh", *_ROUNDING,
}  # fmt: skip


def sequence_first(graph: ir.Graph, packed: Sequence[PackedAttention]) -> int:
    """Turn the token tensors between embeddings and pooling; return how many blocks are turned.

    Nothing is changed unless every attention of the graph is packed, has nothing but a scale
    between its heads and its GEMMs, and is reached over what computes on each token alone.
    """
    blocks = sum(node.op_type == "Softmax" for node in graph)
    if not packed or len(packed) != blocks or not all(item.is_plain for item in packed):
        return 0
    start = _start(packed[0].gemm.inputs[0])
    members = None if start is None else _members(graph, packed, start)
    if start is None or members is None:
        return 0
    _turn_borders(graph, members, packed)
    for node in members:
        for value in node.outputs:
            value.shape = swapped(value.shape)
    turn_heads(graph, packed)
    return blocks


def swapped(shape: ir.Shape | None) -> ir.Shape | None:
    """Return a shape with its first two dimensions in the other order."""
    return None if shape is None else ir.Shape([shape[1], shape[0], *shape[2:]])


def _start(tokens: ir.Value | None) -> ir.Value | None:
    """Return the first block's tokens as they are before they are normalized and rounded."""
    while tokens is not None and (node := tokens.producer()) is not None:
        if node.op_type not in (*_ROUNDING, *_NORMS):
            break
        tokens = node.inputs[0]
    return tokens if _is_tokens(tokens) else None


def _members(
    graph: ir.Graph, packed: Sequence[PackedAttention], start: ir.Value
) -> list[ir.Node] | None:
    """Return the nodes that compute on turned tokens; None where a block is not among them.

    What joins from outside (a residual branch) is turned too, up to the last block; behind it
    (pooling) the tokens are turned back.
    """
    needed = _above([item.gemm for item in packed])
    views = {item.view for item in packed}
    ends = {item.block.last: item.view for item in packed}
    turned, members, seen = {start}, [], set()
    for node in graph:
        if node in views and node.inputs[0] in turned:
            seen.add(node)
        elif node in ends and ends[node] in seen:
            members.append(node)
            turned.update(node.outputs)
        elif _is_by_token(node) and not turned.isdisjoint(node.inputs):
            others = [value for value in _tokens_of(node) if value not in turned]
            if others and node not in needed:
                continue
            if not all(map(_is_tokens, others)):
                return None
            members.append(node)
            turned.update(node.outputs)
    return members if len(seen) == len(packed) else None


def _above(nodes: Sequence[ir.Node]) -> set[ir.Node]:
    """Return the nodes that others depend on, and those."""
    seen: set[ir.Node] = set()
    pending = list(nodes)
    while pending:
        node = pending.pop()
        if node not in seen:
            seen.add(node)
            makers = (value.producer() for value in node.inputs if value is not None)
            pending += [maker for maker in makers if maker is not None]
    return seen


def _is_tokens(value: ir.Value | None) -> bool:
    return value is not None and value.shape is not None and len(value.shape) == 3


def _is_by_token(node: ir.Node) -> bool:
    """Whether a node computes on each token alone, whichever axes the tokens lie on."""
    if node.domain != "":
        return False
    if node.op_type in _NORMS:
        axis = node.attributes.get("axis")
        return axis is None or axis.as_int() in (-1, 2)
    if node.op_type == "MatMul":
        weight = node.inputs[1]
        return weight is not None and weight.shape is not None and len(weight.shape) == 2
    return node.op_type in _ELEMENTWISE


def _tokens_of(node: ir.Node) -> list[ir.Value]:
    """Return a node's operands that are no parameters: not one number, nor one a channel."""
    values = node.inputs[:1] if node.op_type in (*_NORMS, "MatMul") else node.inputs
    return [value for value in values if value is not None and not _is_parameter(value)]


def _is_parameter(value: ir.Value) -> bool:
    array = constant(value)
    return array is not None and all(size == 1 for size in array.shape[:-1])


def _turn_borders(
    graph: ir.Graph, members: Sequence[ir.Node], packed: Sequence[PackedAttention]
) -> None:
    """Turn the tokens that come in and, for who reads them batch first, those that go out."""
    inside = set(members)
    made = {value for node in members for value in node.outputs}
    views, ends = {item.view for item in packed}, {item.block.last for item in packed}
    read = [value for node in members if node not in ends for value in _tokens_of(node)]
    for value in dict.fromkeys(value for value in read if value not in made):
        uses = [(node, index) for node, index in value.uses() if node in inside]
        _insert_turn(graph, value, uses, swapped(value.shape))
    for value in made:
        uses = [(node, index) for node, index in value.uses() if node not in inside | views]
        _insert_turn(graph, value, uses, value.shape)


def _insert_turn(
    graph: ir.Graph, value: ir.Value, uses: Sequence[tuple[ir.Node, int]], shape: ir.Shape | None
) -> None:
    """Let some of a tensor's readers read it with its first two axes in the other order."""
    producer = value.producer()
    if not uses or producer is None:
        return
    turn = ir.node("Transpose", [value], {"perm": [1, 0, 2]}, name=f"{value.name}.turn")
    turned = turn.outputs[0]
    turned.name, turned.type, turned.shape = f"{value.name}.turned", value.type, shape
    graph.insert_after(producer, turn)
    for node, index in uses:
        node.replace_input_with(index, turned)
