"""Spread an outlier channel over several, so that no single one sets the steps of all the others.

Zhao et al., "Improving Neural Network Quantization without Retraining using Outlier Channel
Splitting", ICML 2019 (arXiv:1901.09504): a channel is copied, the copies' weights are divided by
their number, and the function stays what it was. Trained encoders hold one or two such channels
behind the activation function of a feed-forward block, a hundred times as hard as the median: they
fire on one special token of every sentence.

The copies are made in the GEMM before the activation function, so the graph gets no new operator,
only wider GEMMs. Their roundings are staggered (:func:`stagger`), which makes k
copies k times as fine as one.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from pipeline.graph.files import constant
from pipeline.graph.gemms import Gemm, GemmGroup
from pipeline.quant.condition.smoothing import set_bias, set_weight
from pipeline.vectors import FloatArray, IntArray

_MULTIPLE = 32
_ELEMENTWISE = {"Add", "Div", "Erf", "Gelu", "Identity", "Mul", "Relu", "Sigmoid", "Sub", "Tanh"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Expansion:
    """The GEMM that gives a group's channels, and the ``tensors`` from there to the group's."""

    source: Gemm
    tensors: tuple[ir.Value, ...]


def activation_errors(magnitude: FloatArray, weights: Sequence[FloatArray]) -> FloatArray:
    """Return what rounding each channel over its own range costs at the outputs, ``[channels]``.

    In no unit: squared range times the squares of the weights that read it. Smoothing brings every
    channel to the same range, so this is what it leaves.
    """
    energy = np.sum([np.square(weight).sum(axis=1) for weight in weights], axis=0)
    result: FloatArray = np.square(magnitude) * energy
    return result


def count_copies(channels: int, share: float) -> int:
    """Return how many to add: about ``share``, a multiple of 32 (what tensor cores want)."""
    return _MULTIPLE * round(share * channels / _MULTIPLE)


def choose_copies(errors: FloatArray, share: float) -> IntArray:
    """Return how often each channel appears, ``[channels]``.

    Each is added where it takes most: k staggered copies leave 1/k² of a channel's error.
    """
    copies = np.ones(len(errors), np.int64)
    for _ in range(count_copies(len(errors), share)):
        copies[np.argmax(errors * (1 / copies**2 - 1 / (copies + 1) ** 2))] += 1
    return copies


def find_expansion(group: GemmGroup, gemms: Mapping[ir.Value, Gemm]) -> Expansion | None:
    """Return where the group's channels come from through elementwise operators only.

    ``gemms`` are the GEMMs by their output. None where another operator is on the way, or where
    something else reads one of the tensors.
    """
    readers = {gemm.node for gemm in group.gemms}
    pending, inside, found = [group.activation], set[ir.Node](), set[ir.Value]()
    while pending:
        value = pending.pop()
        if value in gemms:
            found.add(value)
            continue
        node = value.producer()
        if node is None or node.op_type not in _ELEMENTWISE:
            return None
        if node in inside:
            continue
        inside.add(node)
        for entry in node.inputs:
            array = constant(entry)
            if entry is not None and array is None:
                pending.append(entry)
            elif array is not None and array.size != 1:
                return None
    if len(found) != 1:
        return None
    source = gemms[found.pop()]
    tensors = {source.node.outputs[0], source.output, *(v for node in inside for v in node.outputs)}
    allowed = {*inside, *readers, *({source.bias} if source.bias else ())}
    for tensor in tensors:
        if tensor.is_graph_output() or any(use.node not in allowed for use in tensor.uses()):
            return None
    if source.weight.shape[1] != group.channels:
        return None
    return Expansion(source=source, tensors=tuple(tensors))


def split(graph: ir.Graph, group: GemmGroup, expansion: Expansion, copies: IntArray) -> IntArray:
    """Copy channels in place; return the channel that each channel now comes from, ``[more]``."""
    order = np.repeat(np.arange(len(copies)), copies)
    source = expansion.source
    set_weight(graph, source, source.weight[:, order])
    if source.bias is not None:
        set_bias(graph, source, source.bias_array[order])
    for gemm in group.gemms:
        share = (1 / copies[order, None]).astype(np.float32)
        set_weight(graph, gemm, gemm.weight[order] * share)
    for tensor in expansion.tensors:
        if tensor.shape is not None:
            tensor.shape = ir.Shape([*tensor.shape[:-1], len(order)])
    return order


def stagger(copies: IntArray) -> FloatArray:
    """Return each copy's offset in steps, ``[more]``: k copies round at k different places.

    Together they see ``k`` times as many steps as one does.
    """
    offsets: FloatArray = np.concatenate([(np.arange(k) + 0.5) / k - 0.5 for k in copies]).astype(
        np.float32
    )
    return offsets
