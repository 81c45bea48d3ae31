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

from pipeline.engines.layers.graph import PACKED
from pipeline.graph.engine_forms.attention_blocks import (
    AttentionBlock,
    Projection,
    find_attention_blocks,
)
from pipeline.graph.files import add_initializer, constant, insert_before
from pipeline.graph.neighbours import producer_of

Array = npt.NDArray[Any]
Steps = tuple[Array, Array]
"""Scales and zero points of an int8 weight, one a channel each."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PackedAttention:
    """A block of attention behind one GEMM, and the nodes that split its output into heads.

    ``view`` reshapes, ``turn`` brings the heads to the front, ``cut`` splits query, key and value,
    ``back`` turns the key.
    """

    block: AttentionBlock
    gemm: ir.Node
    view: ir.Node
    turn: ir.Node
    cut: ir.Node
    back: ir.Node

    @property
    def is_plain(self) -> bool:
        """Whether nothing but a scale and casts stand between heads, GEMMs and softmax."""
        block, (query, _, value) = self.block, self.cut.outputs
        probabilities = block.context.inputs[0]
        return (
            _behind(block.scores.inputs[0], "Mul", "Div") is query
            and _behind(block.scores.inputs[1], "Mul", "Div") is self.back.outputs[0]
            and block.context.inputs[1] is value
            and _behind(probabilities, "Cast") is block.softmax.outputs[0]
            and block.merge.inputs[0] is block.context.outputs[0]
            and block.last.inputs[0] is block.merge.outputs[0]
        )


def pack_projections(graph: ir.Graph) -> list[PackedAttention]:
    """Pack the projections of every block of attention that allows it; return those blocks.

    A block stays as it is where its three GEMMs do not read one tensor, or one of them is quantized
    and another is not.
    """
    order = {node: index for index, node in enumerate(graph)}
    packed = []
    for block in find_attention_blocks(graph):
        if not _fit_together(block):
            continue
        first = min((part.gemm for part in block.projections), key=order.__getitem__)
        packed.append(_Packing(graph, block).write(before=first))
    return packed


def _fit_together(block: AttentionBlock) -> bool:
    """Whether the three GEMMs read one tensor and multiply with weights of one kind."""
    read = {part.gemm.inputs[0] for part in block.projections}
    weights = [_weight(part) for part in block.projections]
    kinds = {
        None if value is None else (value.dtype, tuple(value.shape or ()), _steps(part) is None)
        for value, part in zip(weights, block.projections, strict=True)
    }
    biases = {array.dtype for part in block.projections if (array := _bias(part)) is not None}
    return len(read) == len(kinds) == 1 and None not in kinds and len(biases) < 2


def _weight(part: Projection) -> ir.Value | None:
    """Return the constant matrix of a GEMM, the integers where it is quantized."""
    value = part.gemm.inputs[1]
    node = value.producer() if value is not None else None
    if node is not None and _steps(part) is not None:
        value = node.inputs[0]
    array = constant(value)
    return value if array is not None and array.ndim == 2 else None


def _steps(part: Projection) -> Steps | None:
    """Return scales and zero points of a weight with one each a channel, else None."""
    value = part.gemm.inputs[1]
    node = value.producer() if value is not None else None
    if node is None or node.op_type != "DequantizeLinear" or len(node.inputs) != 3:
        return None
    axis, integers = node.attributes.get("axis"), constant(node.inputs[0])
    scales, zeros = constant(node.inputs[1]), constant(node.inputs[2])
    if axis is None or axis.as_int() != 1 or integers is None or scales is None or zeros is None:
        return None
    return (scales, zeros) if scales.shape == zeros.shape == integers.shape[1:] else None


def _bias(part: Projection) -> Array | None:
    arrays = (constant(value) for value in part.bias.inputs) if part.bias is not None else ()
    return next((array for array in arrays if array is not None), None)


def _behind(value: ir.Value | None, *types: str) -> ir.Value | None:
    """Return what the node that computes a value reads, where it is of one of the types."""
    node = producer_of(value, *types)
    return value if node is None else node.inputs[0]


class _Packing:
    """The packed form of one block, written node by node."""

    def __init__(self, graph: ir.Graph, block: AttentionBlock) -> None:
        self.graph = graph
        self.block = block
        self.name = f"{block.query.heads.name}.packed"
        self.kind = block.query.heads.type
        self.nodes: list[ir.Node] = []

    def write(self, *, before: ir.Node) -> PackedAttention:
        """Give attention its heads from one GEMM, under the names that they had."""
        block, size = self.block, self.block.size
        dims = block.query.heads.shape
        batch, sequence = (dims[0], dims[2]) if dims is not None else (None, None)
        width, parts = 3 * block.heads * size, block.projections
        gemm = ir.node("MatMul", [block.query.gemm.inputs[0], self._weight()])
        gemm.metadata_props[PACKED] = " ".join(part.gemm.name or "" for part in parts)
        flat = self._made(gemm, "product", batch, sequence, width)
        biases = [_bias(part) for part in parts]
        given = next((array for array in biases if array is not None), None)
        if given is not None:
            zeros = np.zeros_like(given)
            full = self._by_head([zeros if array is None else array for array in biases])
            add = ir.node("Add", [flat, self._constant("bias", full)])
            flat = self._made(add, "biased", batch, sequence, width)
        target = self._constant("shape", np.array([0, 0, block.heads, 3 * size]))
        view = ir.node("Reshape", [flat, target])
        split = self._made(view, "view", batch, sequence, block.heads, 3 * size)
        turn = ir.node("Transpose", [split], {"perm": [0, 2, 1, 3]})
        turned = self._made(turn, "heads", batch, block.heads, sequence, 3 * size)
        sizes = self._constant("sizes", np.array([size] * 3))
        cut = ir.node("Split", [turned, sizes], {"axis": -1}, num_outputs=3)
        cut.name = f"{self.name}.split"
        query, key, value = cut.outputs
        key.name, key.type = f"{self.name}.key", self.kind
        key.shape = ir.Shape([batch, block.heads, sequence, size])
        back = ir.node("Transpose", [key], {"perm": [0, 1, 3, 2]}, name=f"{self.name}.turn")
        insert_before(self.graph, before, [*self.nodes, cut, back])
        for part, end in zip(parts, (query, back.outputs[0], value), strict=True):
            old = part.heads
            end.name, end.type, end.shape = old.name, old.type, old.shape
            old.name = f"{old.name}.apart"
            old.replace_all_uses_with(end)
        return PackedAttention(block=block, gemm=gemm, view=view, turn=turn, cut=cut, back=back)

    def _weight(self) -> ir.Value:
        """Return the packed weight.

        In floating point the graph packs it: compilers fold that, and the arrays stay the ones that
        ``model.onnx`` holds. TensorRT takes nothing but a DequantizeLinear behind int8 constants.
        """
        parts, heads, size = self.block.projections, self.block.heads, self.block.size
        values = [value for part in parts if (value := _weight(part)) is not None]
        arrays = [array for value in values if (array := constant(value)) is not None]
        steps = [item for part in parts if (item := _steps(part)) is not None]
        depth = len(arrays[0])
        if steps:
            scales, zeros = (self._by_head(kind) for kind in zip(*steps, strict=True))
            inputs = [
                self._constant("weight", self._by_head(arrays)),
                self._constant("scale", scales),
                self._constant("zero_point", zeros),
            ]
            node = ir.node("DequantizeLinear", inputs, {"axis": 1})
            return self._made(node, "dequantized", depth, 3 * heads * size)
        by_head = self._constant("by_head", np.array([depth, heads, 1, size]))
        split = [
            self._made(ir.node("Reshape", [value, by_head]), f"part{i}", depth, heads, 1, size)
            for i, value in enumerate(values)
        ]
        stack = self._made(ir.node("Concat", split, {"axis": 2}), "together", depth, heads, 3, size)
        flat = self._constant("flat", np.array([depth, 3 * heads * size]))
        return self._made(ir.node("Reshape", [stack, flat]), "weight", depth, 3 * heads * size)

    def _by_head(self, arrays: Sequence[Array]) -> Array:
        """Return three arrays' output channels as one's, ``[…, heads x 3 x size]``."""
        lead = arrays[0].shape[:-1]
        parts = [array.reshape(*lead, self.block.heads, self.block.size) for array in arrays]
        return np.stack(parts, axis=-2).reshape(*lead, -1)

    def _constant(self, suffix: str, array: Array) -> ir.Value:
        return add_initializer(self.graph, f"{self.name}.{suffix}.constant", array)

    def _made(self, node: ir.Node, suffix: str, *dims: int | ir.SymbolicDim | None) -> ir.Value:
        """Name and type what a node gives, and queue the node."""
        value = node.outputs[0]
        node.name = value.name = f"{self.name}.{suffix}"
        value.type, value.shape = self.kind, ir.Shape(dims)
        self.nodes.append(node)
        return value
