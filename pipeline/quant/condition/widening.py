"""Read channels more than once, so that a GEMM sees them more finely than its tensor's step.

Outlier channel splitting (see ``splitting``) where no GEMM gives the channels, behind norms and
attention. Smoothing has brought all channels to one range there, so no copy makes the step smaller:
what copies take is the rounding itself, staggered from copy to copy. They are taken from the
finished tensor by a Gather and joined to it, which makes the GEMMs that read it wider.
"""

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from pipeline.graph.files import add_initializer, insert_before
from pipeline.graph.gemms import GemmGroup
from pipeline.quant.calibrate.statistics import Activation
from pipeline.quant.condition.smoothing import add_to_bias, set_weight
from pipeline.quant.condition.splitting import choose_copies
from pipeline.vectors import FloatArray, IntArray


@dataclass(frozen=True, slots=True, kw_only=True)
class Widened:
    """A group that reads further copies: where its channels come from, less what, both ``[more]``.

    ``offsets`` are in the units of the tensor.
    """

    group: GemmGroup
    channels: IntArray
    offsets: FloatArray

    @property
    def added(self) -> int:
        """How many copies there are."""
        return int(np.count_nonzero(self.offsets))

    def read(self, observed: Activation) -> Activation:
        """Return the statistics of what the group reads now from those of the tensor."""
        return observed.taken(self.channels).transformed(self.offsets, np.ones_like(self.offsets))


def widen(graph: ir.Graph, group: GemmGroup, step: np.float32, share: float) -> Widened | None:
    """Append copies of channels to what the group reads, about ``share`` of them; in place.

    ``step`` is what the tensor is rounded in. Rounding costs each channel the same there, at the
    outputs as much as the squares of the weights that read it. None where there is no copy to make,
    or a GEMM without the bias that takes up the offsets.
    """
    if any(gemm.bias is None for gemm in group.gemms):
        return None
    energy = np.sum([np.square(gemm.weight).sum(axis=1) for gemm in group.gemms], axis=0)
    copies = choose_copies(energy, share)
    extra = np.repeat(np.arange(len(copies)), copies - 1)
    if not len(extra):
        return None
    parts = np.concatenate([np.arange(1, count) / count for count in copies])
    offsets = (parts * step).astype(np.float32)
    for gemm in group.gemms:
        weight = gemm.weight / copies[:, None].astype(np.float32)
        add_to_bias(graph, gemm, offsets @ weight[extra])
        set_weight(graph, gemm, np.concatenate([weight, weight[extra]]))
    return Widened(
        group=GemmGroup(
            activation=_append(graph, group, extra, offsets),
            gemms=group.gemms,
        ),
        channels=np.concatenate([np.arange(len(copies)), extra]),
        offsets=np.concatenate([np.zeros(len(copies), np.float32), offsets]),
    )


def _append(graph: ir.Graph, group: GemmGroup, extra: IntArray, offsets: FloatArray) -> ir.Value:
    """Give the group's GEMMs its tensor with ``x[..., extra] - offsets`` behind it."""
    value, name = group.activation, group.name
    channels = add_initializer(graph, f"{name}.copied_channels", extra)
    lowered = add_initializer(graph, f"{name}.copies_lowered", -offsets)
    taken = ir.node("Gather", [value, channels], {"axis": -1}, name=f"{name}.copies")
    staggered = ir.node("Add", [taken.outputs[0], lowered], name=f"{name}.staggered_copies")
    joined = ir.node("Concat", [value, staggered.outputs[0]], {"axis": -1}, name=f"{name}.widened")
    for node, width in ((taken, len(extra)), (staggered, len(extra)), (joined, group.channels)):
        output = node.outputs[0]
        output.name, output.type = node.name, value.type
        if value.shape is not None:
            output.shape = ir.Shape([*value.shape[:-1], width])
    insert_before(graph, group.gemms[0].node, [taken, staggered, joined])
    for gemm in group.gemms:
        gemm.node.replace_input_with(0, joined.outputs[0])
    return joined.outputs[0]
