"""Read channels more than once, so that a GEMM sees them more finely than its tensor's step.

Outlier channel splitting (see ``splitting``) where no GEMM gives the channels, behind norms and
attention. They are taken from the finished tensor by a Gather and joined to it, which makes the
GEMMs that read it wider. int8: smoothing has brought all channels to one range, so no copy makes
the step smaller; what copies take is the rounding itself, each staggered by its part of a step.
E4M3: an error is a share of the number, so a channel is read twice at most, the second time half an
octave lower (see ``pairs``). Weights gain too: rounding finds two numbers for each.
"""

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from pipeline.graph.files import add_initializer, insert_before
from pipeline.graph.gemms import GemmGroup
from pipeline.quant.calibrate.grid import INT8, Grid
from pipeline.quant.calibrate.statistics import Activation
from pipeline.quant.condition.pairs import (
    FIRST_SHARE,
    SECOND_FACTOR,
    choose_pairs,
    energy_errors,
)
from pipeline.quant.condition.smoothing import add_to_bias, set_weight
from pipeline.quant.condition.splitting import activation_errors, choose_copies
from pipeline.vectors import FloatArray, IntArray


@dataclass(frozen=True, slots=True, kw_only=True)
class Widened:
    """A group that reads further copies: channel ``channels[i]``, ``(x - offsets) / factors``."""

    group: GemmGroup
    channels: IntArray
    offsets: FloatArray
    factors: FloatArray

    @property
    def added(self) -> int:
        """How many copies there are."""
        return len(self.channels) - len(np.unique(self.channels))

    def read(self, observed: Activation) -> Activation:
        """Return the statistics of what the group reads now from those of the tensor."""
        return observed.taken(self.channels).transformed(self.offsets, self.factors)


def widen(
    graph: ir.Graph,
    group: GemmGroup,
    observed: Activation,
    step: np.float32,
    share: float,
    grid: Grid = INT8,
) -> Widened | None:
    """Append copies of channels to what the group reads, about ``share`` of them; in place.

    ``observed`` is of the tensor, which is rounded in steps of ``step``. None where there is no
    copy to make, or a GEMM without the bias that takes up the offsets.
    """
    if any(gemm.bias is None for gemm in group.gemms):
        return None
    weights = [gemm.weight for gemm in group.gemms]
    if grid.even:  # rounding costs every channel the same: at the outputs, its weights' squares
        copies = choose_copies(activation_errors(np.ones_like(observed.low), weights), share)
        first = 1 / copies
    else:
        copies = choose_pairs(energy_errors(observed, weights), share)
        first = np.where(copies > 1, FIRST_SHARE, 1)
    extra = np.repeat(np.arange(len(copies)), copies - 1)
    if not len(extra):
        return None
    parts = np.concatenate([np.arange(1, count) / count for count in copies])
    offsets = (parts * step if grid.even else np.zeros(len(extra))).astype(np.float32)
    factors = np.full(len(extra), 1 if grid.even else SECOND_FACTOR, np.float32)
    shares = ((1 - first) / np.maximum(copies - 1, 1))[extra, None]
    for gemm, weight in zip(group.gemms, weights, strict=True):
        rest = weight[extra] * shares
        add_to_bias(graph, gemm, offsets @ rest)
        joined = np.concatenate([weight * first[:, None], rest * factors[:, None]])
        set_weight(graph, gemm, joined.astype(np.float32))
    return Widened(
        group=GemmGroup(
            activation=_append(graph, group, extra, offsets, factors),
            gemms=group.gemms,
        ),
        channels=np.concatenate([np.arange(len(copies)), extra]),
        offsets=np.concatenate([np.zeros(len(copies), np.float32), offsets]),
        factors=np.concatenate([np.ones(len(copies), np.float32), factors]),
    )


def _append(
    graph: ir.Graph, group: GemmGroup, extra: IntArray, offsets: FloatArray, factors: FloatArray
) -> ir.Value:
    """Give the group's GEMMs its tensor with ``(x[..., extra] - offsets) / factors`` behind it."""
    value, name = group.activation, group.name
    channels = add_initializer(graph, f"{name}.copied_channels", extra)
    nodes = [ir.node("Gather", [value, channels], {"axis": -1}, name=f"{name}.copies")]
    if offsets.any():
        lowered = add_initializer(graph, f"{name}.copies_lowered", -offsets)
        nodes.append(_staggered("Add", nodes[-1], lowered, name))
    if (factors != 1).any():
        scaled = add_initializer(graph, f"{name}.copies_scaled", 1 / factors)
        nodes.append(_staggered("Mul", nodes[-1], scaled, name))
    joined = ir.node("Concat", [value, nodes[-1].outputs[0]], {"axis": -1}, name=f"{name}.widened")
    for node in (*nodes, joined):
        width = group.channels if node is joined else len(extra)
        output = node.outputs[0]
        output.name, output.type = node.name, value.type
        if value.shape is not None:
            output.shape = ir.Shape([*value.shape[:-1], width])
    insert_before(graph, group.gemms[0].node, [*nodes, joined])
    for gemm in group.gemms:
        gemm.node.replace_input_with(0, joined.outputs[0])
    return joined.outputs[0]


def _staggered(op_type: str, before: ir.Node, constant: ir.Value, name: str) -> ir.Node:
    return ir.node(op_type, [before.outputs[0], constant], name=f"{name}.staggered_copies")
