"""Fuse attention into one operator, ``com.microsoft.MultiHeadAttention``.

Five operators and four transposed copies become one that takes query, key and value as the
projections give them. Specification:
https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md
"""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from pipeline.graph.files import constant, target_sizes
from pipeline.graph.neighbours import only_user, producer_of, unscaled
from pipeline.graph.observe import run_observed
from pipeline.text.tokens import TokenBatch
from pipeline.vectors import IntArray

DOMAIN = "com.microsoft"
_FAR_BELOW = -1000.0
"""A score this low has no weight behind the softmax."""

_TO_HEADS, _TO_KEYS = [0, 2, 1, 3], [0, 2, 3, 1]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Attention:
    """One block of attention: its inputs ``[batch, sequence, heads x size]`` and what it adds."""

    query: ir.Value
    key: ir.Value
    value: ir.Value
    heads: int
    scale: float
    mask: ir.Value
    bias: ir.Value | None
    last: ir.Node


def fuse_attention(model: ir.Model, max_length: int) -> tuple[int, int]:
    """Replace attention in place; return how many blocks were replaced, and how many there are.

    A block stays as it is where query or key are changed behind their projection (rotary
    embeddings), where its GEMMs are quantized, or where the mask is more than ``attention_mask``
    (local attention): it is looked at up to ``max_length`` tokens, the model's own limit.
    """
    graph = model.graph
    softmaxes = [node for node in graph if node.op_type == "Softmax"]
    found = [block for node in softmaxes if (block := _match(node)) is not None]
    masks = list({block.mask.name: block.mask for block in found}.values())
    plain = _plain_masks(model, masks, max_length) if masks else set()
    blocks = [block for block in found if block.mask.name in plain]
    if blocks:
        model.opset_imports[DOMAIN] = 1
        padding = _padding_mask(graph)
        for block in blocks:
            _replace(graph, block, padding)
    return len(blocks), len(softmaxes)


def _match(softmax: ir.Node) -> _Attention | None:
    """Read a block backwards and forwards from its Softmax; None where it is another form."""
    scores, terms = _terms(softmax.inputs[0])
    product, after = unscaled(scores)
    gemm = producer_of(product, "MatMul")
    context = only_user(softmax, "MatMul")
    if gemm is None or context is None or context.inputs[0] is not softmax.outputs[0]:
        return None
    query, before = unscaled(gemm.inputs[0])
    key, beside = unscaled(gemm.inputs[1])
    heads = [
        _heads(query, _TO_HEADS),
        _heads(key, _TO_KEYS),
        _heads(context.inputs[1], _TO_HEADS),
    ]
    back = only_user(context, "Transpose")
    last = only_user(back, "Reshape") if back is not None else None
    if last is None or back is None or _permutation(back) != _TO_HEADS or None in heads:
        return None
    (q, q_shape), (k, k_shape), (v, v_shape) = (head for head in heads if head is not None)
    width = target_sizes(last)
    if q_shape != k_shape or v_shape[0] != q_shape[0]:
        return None
    if width is None or len(width) != 3 or width[2] != v_shape[0] * v_shape[1]:
        return None
    masks = [term for term in terms if _depends_on_mask(term)]
    biases = [term for term in terms if not _depends_on_mask(term)]
    if len(masks) != 1 or len(biases) > 1:
        return None
    return _Attention(
        query=q,
        key=k,
        value=v,
        heads=q_shape[0],
        scale=after * before * beside,
        mask=masks[0],
        bias=_unexpanded(biases[0]) if biases else None,
        last=last,
    )


def _terms(value: ir.Value | None) -> tuple[ir.Value | None, list[ir.Value]]:
    """Peel off what is added to the scores (a ``Where`` with a constant counts: its condition)."""
    terms: list[ir.Value] = []
    while (node := producer_of(value, "Add", "Where")) is not None:
        if node.op_type == "Where":
            instead = constant(node.inputs[1])
            term, value = node.inputs[0], node.inputs[2]
            if instead is None or not (instead < _FAR_BELOW).all():
                break
        else:
            left, right = node.inputs
            term, value = (right, left) if _is_scores(left) else (left, right)
        if term is not None:
            terms.append(term)
    return value, terms


def _is_scores(value: ir.Value | None) -> bool:
    """Whether a value is a GEMM's output, scaled or with something added or not."""
    node = value.producer() if value is not None else None
    if node is None:
        return False
    if node.op_type == "Add":
        return any(_is_scores(operand) for operand in node.inputs)
    if node.op_type in ("Div", "Mul"):
        return _is_scores(node.inputs[0])
    return node.op_type == "MatMul"


def _heads(value: ir.Value | None, order: list[int]) -> tuple[ir.Value, tuple[int, int]] | None:
    """Return the projection behind ``[batch, heads, …]``, and (heads, size of one)."""
    transpose = producer_of(value, "Transpose")
    reshape = producer_of(transpose.inputs[0], "Reshape") if transpose is not None else None
    if transpose is None or reshape is None or _permutation(transpose) != order:
        return None
    sizes = target_sizes(reshape)
    projection = reshape.inputs[0]
    if sizes is None or len(sizes) != 4 or projection is None:
        return None
    heads, size = sizes[2:]
    return None if heads is None or size is None else (projection, (heads, size))


def _permutation(node: ir.Node) -> list[int]:
    return list(node.attributes["perm"].as_ints())


def _unexpanded(value: ir.Value) -> ir.Value:
    """Return what a bias was repeated from: the operator takes one for the whole batch."""
    node = producer_of(value, "Expand")
    inner = node.inputs[0] if node is not None else None
    return (
        inner if inner is not None and inner.shape is not None and len(inner.shape) == 4 else value
    )


def _depends_on_mask(value: ir.Value) -> bool:
    return any(above.name == "attention_mask" for above in _above(value))


def _above(value: ir.Value) -> Iterator[ir.Value]:
    seen: set[int] = set()
    pending = [value]
    while pending:
        current = pending.pop()
        if id(current) in seen:
            continue
        seen.add(id(current))
        yield current
        node = current.producer()
        if node is not None:
            pending += [v for v in node.inputs if v is not None]


def _plain_masks(model: ir.Model, masks: list[ir.Value], max_length: int) -> set[str | None]:
    """Return the names of the masks that hide padding and nothing else, by running them.

    In two rows that are padded differently, and in one of ``max_length`` tokens: local attention
    hides nothing in a text that is shorter than its window.
    """
    plain: set[str | None] = {mask.name for mask in masks}
    for rows, tokens in ((2, min(4, max_length)), (1, max_length)):
        shown = np.ones((rows, tokens), np.int64)
        shown[-1, -1] = 0
        ids = np.zeros_like(shown)
        batch = TokenBatch(input_ids=ids, attention_mask=shown, token_type_ids=ids)
        observed = (values.items() for values in run_observed(model, masks, [batch]))
        for name, value in itertools.chain.from_iterable(observed):
            if not _hides_padding_only(value, shown):
                plain.discard(name)
    return plain


def _hides_padding_only(mask: npt.NDArray[Any], shown: IntArray) -> bool:
    """Whether a mask of a batch is its ``attention_mask`` and no more.

    A mask is a number to add (0, or far below any score) or the condition under which a score is
    replaced (True: hidden).
    """
    condition = mask.dtype == np.bool_
    seen = np.asarray(mask if condition else mask < _FAR_BELOW, dtype=np.bool_)
    if not condition and mask[~seen].any():
        return False
    tokens = shown.shape[1]
    if seen.ndim != 4 or seen.shape[2] not in (1, tokens):
        return False
    hidden = (shown == 0)[:, None, None, :]
    shape = np.broadcast_shapes(seen.shape, hidden.shape)
    return np.array_equal(np.broadcast_to(seen, shape), np.broadcast_to(hidden, shape))


def _padding_mask(graph: ir.Graph) -> ir.Value:
    """Add ``attention_mask`` as int32, as the operator wants it, and return it."""
    mask = next(value for value in graph.inputs if value.name == "attention_mask")
    cast = ir.node("Cast", [mask], {"to": int(ir.DataType.INT32)}, name="padding_mask")
    value = cast.outputs[0]
    value.name, value.dtype, value.shape = "padding_mask", ir.DataType.INT32, mask.shape
    graph.insert_before(graph[0], cast)
    return value


def _replace(graph: ir.Graph, block: _Attention, padding: ir.Value) -> None:
    old = block.last.outputs[0]
    node = ir.node(
        "MultiHeadAttention",
        [block.query, block.key, block.value, None, padding, block.bias],
        {"num_heads": block.heads, "scale": block.scale},
        domain=DOMAIN,
        name=f"{old.name}.attention",
    )
    new = node.outputs[0]
    new.type, new.shape = old.type, old.shape
    graph.insert_before(block.last, node)
    old.replace_all_uses_with(new)
    new.name, old.name = old.name, f"{old.name}.unfused"
