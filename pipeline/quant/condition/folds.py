"""Find where the shift and the factors of a group's tensor can go without an operator of their own.

Matched by structure; each match is exact:

- behind a norm: its scale and bias, of LayerNormalization or of any operators that end in a
  constant scale (and bias) per channel;
- behind attention (probabilities times value): the value projection, alone or part of a fused one,
  whose output channels pass through unmixed, the probabilities of a token summing to 1;
- behind a gate, ``act(a) * b``: the projection that gives ``b``, for factors only;
- elsewhere (behind GELU): nowhere, an explicit Mul and Add.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

import onnx_ir as ir

from pipeline.graph.files import constant
from pipeline.graph.gemms import Gemm, GemmGroup
from pipeline.quant.condition.channels import ChannelSource, Use, trace_channels


class Fold(StrEnum):
    """Where a group's shift and factors went."""

    layer_norm = "layer_norm"
    value_projection = "value_projection"
    gated_projection = "gated_projection"
    explicit = "explicit"


@dataclass(frozen=True, slots=True, kw_only=True)
class Norm:
    """The parameters that end a norm, each one input of a node.

    ``bias`` is None where no bias can be, and names an input that is not there yet where one can.
    """

    scale: Use
    bias: Use | None

    @property
    def last(self) -> ir.Node:
        """The node that gives the norm's result."""
        return self.scale[0] if self.bias is None else self.bias[0]


def find_norm(group: GemmGroup) -> Norm | None:
    """Return the scale and bias per channel behind which the group's tensor stands."""
    node = group.activation.producer()
    if node is None or group.activation.is_graph_output():
        return None
    if node.op_type == "LayerNormalization":
        biased = len(node.inputs) == 3 and node.inputs[2] is not None
        fits = _is_vector(node.inputs[1], group) and (
            not biased or _is_vector(node.inputs[2], group)
        )
        return Norm(scale=(node, 1), bias=(node, 2)) if fits else None
    scale, bias = node, None
    if node.op_type == "Add":
        bias = _vector_input(node, group)
        scaled = node.inputs[1 - bias[1]] if bias is not None else None
        inner = scaled.producer() if scaled is not None else None
        if inner is None or scaled is None or len(scaled.uses()) != 1 or scaled.is_graph_output():
            return None
        scale = inner
    factor = _vector_input(scale, group) if scale.op_type == "Mul" else None
    return Norm(scale=factor, bias=bias) if factor is not None else None


def find_value_projection(group: GemmGroup, gemms: Mapping[ir.Value, Gemm]) -> ChannelSource | None:
    """Return the output channels that attention mixes over tokens into the group's tensor."""
    readers = [(gemm.node, 0) for gemm in group.gemms]
    source = trace_channels(group.activation, readers, gemms)
    if source is None or not source.through_attention or source.channels.size != group.channels:
        return None
    return source


def find_gated_projection(group: GemmGroup, gemms: Mapping[ir.Value, Gemm]) -> ChannelSource | None:
    """Return the output channels that a gate multiplies into the group's tensor."""
    gate = group.activation.producer()
    inside = {gemm.node for gemm in group.gemms}
    if gate is None or gate.op_type != "Mul" or group.activation.is_graph_output():
        return None
    if any(node not in inside and node.op_type != "Shape" for node, _ in group.activation.uses()):
        return None
    for index, value in enumerate(gate.inputs):
        source = trace_channels(value, [(gate, index)], gemms) if value is not None else None
        if source is not None and source.channels.size == group.channels:
            return source
    return None


def _vector_input(node: ir.Node, group: GemmGroup) -> Use | None:
    """Return the input that holds one constant number a channel."""
    indices = (i for i, value in enumerate(node.inputs) if _is_vector(value, group))
    return next(((node, i) for i in indices), None)


def _is_vector(value: ir.Value | None, group: GemmGroup) -> bool:
    array = constant(value)
    return array is not None and array.shape == (group.channels,)
