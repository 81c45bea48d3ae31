"""One GEMM for query, key and value, its channels ordered so that one kernel splits them.

TensorRT merges the three GEMMs by itself, but then adds each bias and moves each tensor's heads in
a kernel of its own, three a block. With the weights packed head by head, ``[in, heads, 3, size]``,
the bias is one vector, which the GEMM adds, and the heads are one tensor, ``[batch, heads,
sequence, 3 x size]``, which one kernel splits.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from pipeline.graph.engine_forms.attention_blocks import (
    AttentionBlock,
    Projection,
    find_attention_blocks,
)
from pipeline.graph.files import add_initializer, constant, insert_before

Array = npt.NDArray[Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Packed:
    """The constants of a packed GEMM: a weight, or its integers, scales and zero points."""

    weights: tuple[Array, ...]
    bias: Array | None


def pack_projections(graph: ir.Graph) -> int:
    """Pack the projections of every block of attention that allows it; return of how many.

    A block stays as it is where its three GEMMs do not read one tensor, or one of them is quantized
    and another is not.
    """
    order = {node: index for index, node in enumerate(graph)}
    count = 0
    for block in find_attention_blocks(graph):
        packed = _pack(block)
        if packed is None:
            continue
        first = min((part.gemm for part in block.projections), key=order.__getitem__)
        _replace(graph, block, packed, before=first)
        count += 1
    return count


def _pack(block: AttentionBlock) -> _Packed | None:
    """Return the constants of the three GEMMs as one's, or None where they do not fit together."""
    if len({part.gemm.inputs[0] for part in block.projections}) != 1:
        return None
    found = [_weights(part) for part in block.projections]
    weights = [item for item in found if item is not None]
    kinds = {tuple((array.dtype, array.shape) for array in item) for item in weights}
    biases = [_bias(part) for part in block.projections]
    given = [array for array in biases if array is not None]
    if len(weights) != 3 or len(kinds) != 1 or len({array.dtype for array in given}) > 1:
        return None
    bias = None
    if given:
        zeros = np.zeros_like(given[0])
        bias = _by_head(block, [zeros if array is None else array for array in biases])
    together = tuple(_by_head(block, arrays) for arrays in zip(*weights, strict=True))
    return _Packed(weights=together, bias=bias)


def _by_head(block: AttentionBlock, arrays: Sequence[Array]) -> Array:
    """Return three arrays' output channels as one's, ``[…, heads x 3 x size]``."""
    lead = arrays[0].shape[:-1]
    parts = [array.reshape(*lead, block.heads, block.size) for array in arrays]
    return np.stack(parts, axis=-2).reshape(*lead, -1)


def _weights(part: Projection) -> tuple[Array, ...] | None:
    """Return what a GEMM multiplies with; of an int8 one the integers, scales and zero points."""
    value = part.gemm.inputs[1]
    array = constant(value)
    if array is not None:
        return (array,) if array.ndim == 2 else None
    dequantize = value.producer() if value is not None else None
    if dequantize is None or dequantize.op_type != "DequantizeLinear":
        return None
    axis = dequantize.attributes.get("axis")
    arrays = tuple(array for item in dequantize.inputs if (array := constant(item)) is not None)
    if len(arrays) != 3 or axis is None or axis.as_int() != 1 or arrays[0].ndim != 2:
        return None
    return arrays if arrays[1].shape == arrays[2].shape == arrays[0].shape[1:] else None


def _bias(part: Projection) -> Array | None:
    arrays = (constant(value) for value in part.bias.inputs) if part.bias is not None else ()
    return next((array for array in arrays if array is not None), None)


def _replace(graph: ir.Graph, block: AttentionBlock, packed: _Packed, *, before: ir.Node) -> None:
    """Write the packed GEMM and give attention its heads, under the names that they had."""
    size, kind = block.size, block.query.heads.type
    name = f"{block.query.heads.name}.packed"
    nodes: list[ir.Node] = []

    def made(node: ir.Node, suffix: str) -> ir.Value:
        node.name = node.outputs[0].name = f"{name}.{suffix}"
        node.outputs[0].type = kind
        nodes.append(node)
        return node.outputs[0]

    weight, *steps = (
        add_initializer(graph, f"{name}.weight.{i}", array)
        for i, array in enumerate(packed.weights)
    )
    if steps:
        dequantize = ir.node("DequantizeLinear", [weight, *steps], {"axis": 1})
        weight = made(dequantize, "dequantized")
    flat = made(ir.node("MatMul", [block.query.gemm.inputs[0], weight]), "product")
    if packed.bias is not None:
        bias = add_initializer(graph, f"{name}.bias", packed.bias)
        flat = made(ir.node("Add", [flat, bias]), "biased")
    target = add_initializer(graph, f"{name}.shape", np.array([0, 0, block.heads, 3 * size]))
    view = made(ir.node("Reshape", [flat, target]), "view")
    turned = made(ir.node("Transpose", [view], {"perm": [0, 2, 1, 3]}), "heads")
    sizes = add_initializer(graph, f"{name}.sizes", np.array([size] * 3))
    split = ir.node("Split", [turned, sizes], {"axis": -1}, num_outputs=3, name=f"{name}.split")
    query, key, value = split.outputs
    key.name, key.type = f"{name}.key", kind
    turn = ir.node("Transpose", [key], {"perm": [0, 1, 3, 2]}, name=f"{name}.turn")
    insert_before(graph, before, [*nodes, split, turn])
    ends = (query, turn.outputs[0], value)
    for part, end in zip(block.projections, ends, strict=True):
        old = part.heads
        end.name, end.type, end.shape = old.name, old.type, old.shape
        old.name = f"{old.name}.apart"
        old.replace_all_uses_with(end)
