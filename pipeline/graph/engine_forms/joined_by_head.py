"""A model's own joined GEMM of query, key and value, its int8 channels in order of the heads.

ModernBERT has one weight ``[in, 3 x heads x size]``, cut into three behind the GEMM. TensorRT-RTX
moves that cut in front of the GEMM, where it has to dequantize the weight first: at every run, and
the product is one of fp16. Cut head by head, ``[in, heads, 3, size]``, the GEMM stays in int8.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from pipeline.graph.files import add_initializer, constant, target_sizes
from pipeline.graph.neighbours import producer_of

Array = npt.NDArray[Any]
_PARTS_AXIS = (2, -3)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Joined:
    """A quantized GEMM viewed as ``[batch, sequence, parts, heads, size]``, and its parts."""

    weight: ir.Node
    bias: ir.Node | None
    view: ir.Node
    sizes: tuple[int, int, int]
    parts: tuple[ir.Value, ...]


def order_joined_by_head(graph: ir.Graph) -> int:
    """Order the channels of joined int8 GEMMs head by head; return how many."""
    views = [node for node in graph if node.op_type == "Reshape"]
    found = [joined for view in views if (joined := _match(view)) is not None]
    for joined in found:
        _rewrite(graph, joined)
    return len(found)


def _match(view: ir.Node) -> _Joined | None:
    sizes = target_sizes(view)
    if sizes is None or len(sizes) != 5 or view.outputs[0].is_graph_output():
        return None
    count, heads, size = sizes[2:]
    if count is None or heads is None or size is None:
        return None
    bias = producer_of(view.inputs[0], "Add")
    product = view.inputs[0]
    if bias is not None:
        computed = [value for value in bias.inputs if constant(value) is None]
        if len(computed) != 1 or len(bias.outputs[0].uses()) != 1:
            return None
        product = computed[0]
    gemm = producer_of(product, "MatMul")
    if gemm is None or len(gemm.outputs[0].uses()) != 1:
        return None
    weight = producer_of(gemm.inputs[1], "DequantizeLinear")
    parts = _parts(view, count)
    if weight is None or parts is None or not _is_by_channel(weight, count * heads * size):
        return None
    return _Joined(weight=weight, bias=bias, view=view, sizes=(count, heads, size), parts=parts)


def _parts(view: ir.Node, count: int) -> tuple[ir.Value, ...] | None:
    """Return what is cut from a view along its third axis, that axis gone; None if not all is."""
    found: dict[int, ir.Value] = {}
    for use in view.outputs[0].uses():
        numbers = [constant(value) for value in use.node.inputs[1:4]]
        users = [reader.node for reader in use.node.outputs[0].uses()]
        if use.node.op_type != "Slice" or len(users) != 1 or users[0].op_type != "Squeeze":
            return None
        if len(numbers) != 3 or any(array is None or array.size != 1 for array in numbers):
            return None
        start, end, axis = (int(array.reshape(())) for array in numbers if array is not None)
        gone = constant(users[0].inputs[1]) if len(users[0].inputs) > 1 else None
        if axis not in _PARTS_AXIS or end != start + 1 or start in found:
            return None
        if gone is None or gone.size != 1 or int(gone.reshape(())) not in _PARTS_AXIS:
            return None
        found[start] = users[0].outputs[0]
    return tuple(found[i] for i in range(count)) if sorted(found) == list(range(count)) else None


def _is_by_channel(weight: ir.Node, width: int) -> bool:
    """Whether a weight is int8 with a scale for each of its output channels, and read once."""
    arrays = [constant(value) for value in weight.inputs]
    axis = weight.attributes.get("axis")
    return (
        len(arrays) == 3
        and axis is not None
        and axis.as_int() == 1
        and all(array is not None and array.shape[-1:] == (width,) for array in arrays)
        and len(weight.outputs[0].uses()) == 1
    )


def _rewrite(graph: ir.Graph, joined: _Joined) -> None:
    count, heads, size = joined.sizes
    view = joined.view
    for node in (joined.weight, joined.bias):
        for index, value in enumerate(node.inputs if node is not None else ()):
            array = constant(value)
            if node is not None and value is not None and array is not None and array.size > 1:
                ordered = _by_head(array, joined.sizes)
                new = add_initializer(graph, f"{view.name}.{value.name}.by_head", ordered)
                node.replace_input_with(index, new)
    target = np.array([0, 0, heads, count * size])
    view.replace_input_with(1, add_initializer(graph, f"{view.name}.by_head", target))
    view.attributes.pop("allowzero", None)
    sizes = add_initializer(graph, f"{view.name}.sizes", np.array([size] * count))
    cut = ir.node("Split", [view.outputs[0], sizes], {"axis": -1}, num_outputs=count)
    cut.name = f"{view.name}.cut"
    for part, made in zip(joined.parts, cut.outputs, strict=True):
        made.name, made.type, made.shape = f"{part.name}.by_head", part.type, part.shape
        part.replace_all_uses_with(made)
    graph.insert_after(view, cut)
    shape = view.outputs[0].shape
    batch, sequence = (None, None) if shape is None else shape[:2]
    view.outputs[0].shape = ir.Shape([batch, sequence, heads, count * size])


def _by_head(array: Array, sizes: tuple[int, int, int]) -> Array:
    """Return an array with its last axis in the order heads, parts, size."""
    by_part = array.reshape(*array.shape[:-1], *sizes)
    return np.swapaxes(by_part, -3, -2).reshape(array.shape)
