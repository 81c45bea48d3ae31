"""Follow the channels of a tensor back to the GEMM that computes them.

Between a projection and what reads it stand only operators that move channels: a head split, a
fused query-key-value or gate-up projection taken apart, the mixing of tokens by attention. They are
followed with the channels' numbers in place of their values, so any order of them is understood.
"""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from pipeline.graph.files import constant, target_sizes
from pipeline.graph.gemms import Gemm
from pipeline.vectors import IntArray

Use = tuple[ir.Node, int]
"""A node and which of its inputs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChannelSource:
    """Where a tensor's channels come from.

    ``channels[i]`` is the output channel of ``gemm`` that is channel ``i`` of the tensor, moved and
    mixed over tokens only (with weights that sum to 1); nothing else reads those channels.
    """

    gemm: Gemm
    channels: IntArray
    through_attention: bool


def trace_channels(
    value: ir.Value, readers: Collection[Use], gemms: Mapping[ir.Value, Gemm]
) -> ChannelSource | None:
    """Return the source of a tensor's channels, or None where there is no such GEMM.

    ``readers`` may read ``value``; ``gemms`` are the GEMMs by their output.
    """
    moves: list[tuple[ir.Node, ir.Value]] = []  # each node on the way and what it gives
    current: ir.Value | None = value
    while current is not None and current not in gemms:
        node = current.producer()
        if node is None or node.op_type not in (*_MOVES, "Split"):
            return None
        moves.append((node, current))
        current = node.inputs[_data_index(node)]
    if current is None or current.shape is None:
        return None
    gemm = gemms[current]
    width = gemm.weight.shape[1]
    # Axes of tokens have length 1 here: along them the channels' numbers do not change.
    numbers: IntArray | None = np.arange(width).reshape((1,) * (len(current.shape) - 1) + (width,))
    passed: list[tuple[ir.Value, IntArray, Collection[Use]]] = []
    for node, output in reversed(moves):
        assert numbers is not None
        passed.append((current, numbers, [(node, _data_index(node))]))
        numbers = _move(node, output, numbers)
        if numbers is None:
            return None
        current = output
    assert numbers is not None
    passed.append((current, numbers, readers))
    channels = numbers.reshape(-1)
    if numbers.shape[-1] != channels.size or len(np.unique(channels)) != channels.size:
        return None
    if any(_leaks(tensor, known, channels, uses) for tensor, known, uses in passed):
        return None
    attention = any(node.op_type == "MatMul" for node, _ in moves)
    return ChannelSource(gemm=gemm, channels=channels, through_attention=attention)


def _leaks(
    value: ir.Value, numbers: IntArray, channels: IntArray, readers: Collection[Use]
) -> bool:
    """Whether anything but ``readers`` reads one of the channels off a tensor."""
    if value.is_graph_output():
        return True
    for node, index in value.uses():
        if node.op_type == "Shape" or (node, index) in readers:
            continue
        if index != 0 or node.op_type not in _SELECTIONS:
            return True
        for output in node.outputs:
            selected = _move(node, output, numbers)
            if selected is None or np.isin(selected, channels).any():
                return True
    return False


def _data_index(node: ir.Node) -> int:
    """Return which input of a node on the way holds the channels: of a batch GEMM the second."""
    return int(node.op_type == "MatMul")


def _move(node: ir.Node, output: ir.Value, numbers: IntArray) -> IntArray | None:
    """Return the channels' numbers in an output of a node, or None where that is not known."""
    if node.op_type == "Split":
        return _split(node, output, numbers)
    return _MOVES[node.op_type](node, numbers)


def _reshape(node: ir.Node, numbers: IntArray) -> IntArray | None:
    """Regroup channels where they are the last axes before and after: tokens stay apart then."""
    tokens = next((i for i, size in enumerate(numbers.shape) if size > 1), 0)
    sizes = target_sizes(node)
    if sizes is None or min(numbers.shape[tokens:]) == 1:
        return None
    tail: list[int] = []
    while sizes and np.prod(tail, dtype=int) < numbers.size:
        index, size = len(sizes) - 1, sizes.pop()
        if size == 0 and index < numbers.ndim:  # copied from the input
            size = numbers.shape[index] if index >= tokens else None
        if size is None or size < 1:
            return None
        tail.insert(0, size)
    if np.prod(tail, dtype=int) != numbers.size:
        return None
    return numbers.reshape([1] * len(sizes) + tail)


def _transpose(node: ir.Node, numbers: IntArray) -> IntArray | None:
    perm = node.attributes.get("perm")
    return numbers.transpose(perm.as_ints() if perm is not None else None)


def _squeeze(node: ir.Node, numbers: IntArray) -> IntArray | None:
    axes = _axes(node, 1)
    if axes is None or any(numbers.shape[axis] != 1 for axis in axes):
        return None
    return numbers.squeeze(axis=tuple(axes))


def _unsqueeze(node: ir.Node, numbers: IntArray) -> IntArray | None:
    axes = _axes(node, 1)
    return None if axes is None else np.expand_dims(numbers, tuple(axes))


def _slice(node: ir.Node, numbers: IntArray) -> IntArray | None:
    starts, ends = _axes(node, 1), _axes(node, 2)
    if starts is None or ends is None:
        return None
    axes = _axes(node, 3) if len(node.inputs) > 3 else list(range(len(starts)))
    steps = _axes(node, 4) if len(node.inputs) > 4 else [1] * len(starts)
    if axes is None or steps is None:
        return None
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        if step < 1:
            return None
        if numbers.shape[axis] > 1:  # of tokens, any selection leaves the channels as they are
            numbers = np.take(numbers, range(numbers.shape[axis])[start:end:step], axis=axis)
    return numbers


def _split(node: ir.Node, output: ir.Value, numbers: IntArray) -> IntArray | None:
    axis = node.attributes["axis"].as_int() if "axis" in node.attributes else 0
    size = numbers.shape[axis]
    if size == 1:
        return None
    parts = len(node.outputs)
    sizes = _axes(node, 1) if len(node.inputs) > 1 else [-(-size // parts)] * parts
    if sizes is None:
        return None
    pieces = np.split(numbers, np.cumsum(sizes)[:-1], axis=axis)
    return pieces[list(node.outputs).index(output)]


def _gather(node: ir.Node, numbers: IntArray) -> IntArray | None:
    indices = constant(node.inputs[1])
    axis = node.attributes["axis"].as_int() if "axis" in node.attributes else 0
    if indices is None or numbers.shape[axis] == 1:
        return None
    return np.take(numbers, indices, axis=axis)


def _attend(node: ir.Node, numbers: IntArray) -> IntArray | None:
    """Mix tokens with softmax's probabilities, which sum to 1."""
    probabilities, value = node.inputs
    softmax = probabilities.producer() if probabilities is not None else None
    if softmax is None or softmax.op_type != "Softmax" or value is None:
        return None
    axis = softmax.attributes["axis"].as_int() if "axis" in softmax.attributes else -1
    shape = softmax.outputs[0].shape
    last = axis == -1 or (shape is not None and axis == len(shape) - 1)
    return numbers if last and numbers.ndim > 1 and numbers.shape[-2] == 1 else None


def _axes(node: ir.Node, index: int) -> list[int] | None:
    """Return a constant input of integers."""
    array = constant(node.inputs[index]) if index < len(node.inputs) else None
    return None if array is None else [int(number) for number in array.reshape(-1)]


_SELECTIONS = ("Slice", "Split", "Gather")
_MOVES: Mapping[str, Callable[[ir.Node, IntArray], IntArray | None]] = {
    "Reshape": _reshape,
    "Transpose": _transpose,
    "Squeeze": _squeeze,
    "Unsqueeze": _unsqueeze,
    "Slice": _slice,
    "Gather": _gather,
    "MatMul": _attend,
}
