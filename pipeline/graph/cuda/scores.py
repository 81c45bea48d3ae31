"""Attention whose query and key are turned or repeated behind their projection, as one operator.

Rotary embeddings, grouped heads, causal and local masks: ``MultiHeadAttention`` takes query, key
and value as they come out of all that, and the mask as something to add to the scores.
"""

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from pipeline.graph.cuda.take_over import take_over
from pipeline.graph.files import add_initializer
from pipeline.graph.fuse_attention import DOMAIN
from pipeline.graph.neighbours import only_user, producer_of, unscaled

_TO_TOKENS, _KEYS_TO_TOKENS = (0, 2, 1, 3), (0, 3, 1, 2)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Block:
    """Attention over ``[batch, heads, sequence, size]``; ``last`` joins the heads again."""

    query: ir.Value
    transposed_key: ir.Value
    value: ir.Value
    heads: int
    size: int
    scale: float
    bias: ir.Value
    last: ir.Node


def fuse_scores(model: ir.Model) -> int:
    """Replace what ``fuse_attention`` has left in place; return how many blocks were replaced."""
    graph = model.graph
    found = [_match(node) for node in graph if node.op_type == "Softmax"]
    blocks = [block for block in found if block is not None]
    for block in blocks:
        _replace(graph, block)
    if blocks:
        model.opset_imports[DOMAIN] = 1
    return len(blocks)


def _match(softmax: ir.Node) -> _Block | None:
    add = producer_of(softmax.inputs[0], "Add")
    if add is None:
        return None
    for scores, bias in (add.inputs, tuple(reversed(add.inputs))):
        product, scale = unscaled(scores)
        gemm = producer_of(product, "MatMul")
        if gemm is None or bias is None or bias.shape is None or len(bias.shape) != 4:
            continue
        query, before = unscaled(gemm.inputs[0])
        key, beside = unscaled(gemm.inputs[1])
        context = only_user(softmax, "MatMul")
        back = only_user(context, "Transpose") if context is not None else None
        last = only_user(back, "Reshape") if back is not None else None
        if last is None or back is None or context is None or query is None or key is None:
            return None
        value = context.inputs[1]
        heads = _sizes(query)
        if (
            value is None
            or heads is None
            or heads != _sizes(value)
            or context.inputs[0] is not softmax.outputs[0]
            or tuple(back.attributes["perm"].as_ints()) != _TO_TOKENS
            or last.outputs[0].shape is None
            or len(last.outputs[0].shape) != 3
            or last.outputs[0].shape[-1] != heads[0] * heads[1]
        ):
            return None
        return _Block(
            query=query,
            transposed_key=key,
            value=value,
            heads=heads[0],
            size=heads[1],
            scale=scale * before * beside,
            bias=bias,
            last=last,
        )
    return None


def _sizes(value: ir.Value) -> tuple[int, int] | None:
    """Return (heads, size of one) of ``[batch, heads, sequence, size]``."""
    if value.shape is None or len(value.shape) != 4:
        return None
    heads, size = value.shape[1], value.shape[3]
    return (heads, size) if isinstance(heads, int) and isinstance(size, int) else None


def _replace(graph: ir.Graph, block: _Block) -> None:
    old = block.last.outputs[0]
    width = block.heads * block.size
    shape = add_initializer(graph, f"{old.name}.tokens", np.array([0, 0, width], np.int64))

    def to_tokens(value: ir.Value, order: tuple[int, ...], name: str) -> ir.Value:
        turned = ir.node("Transpose", [value], {"perm": order}, name=f"{old.name}.{name}.turned")
        flat = ir.node("Reshape", [turned.outputs[0], shape], name=f"{old.name}.{name}")
        for node, dims in ((turned, 4), (flat, 3)):
            output = node.outputs[0]
            assert value.dtype is not None  # a type of its own: the cast changes types in place
            output.name, output.type = node.name, ir.TensorType(value.dtype)
            output.shape = ir.Shape([None] * (dims - 1) + [width if dims == 3 else block.size])
            graph.insert_before(block.last, node)
        return flat.outputs[0]

    node = ir.node(
        "MultiHeadAttention",
        [
            to_tokens(block.query, _TO_TOKENS, "query"),
            to_tokens(block.transposed_key, _KEYS_TO_TOKENS, "key"),
            to_tokens(block.value, _TO_TOKENS, "value"),
            None,
            None,
            block.bias,
        ],
        {"num_heads": block.heads, "scale": block.scale},
        domain=DOMAIN,
        name=f"{old.name}.attention",
    )
    new = node.outputs[0]
    graph.insert_before(block.last, node)
    take_over(old, new)
