"""Round embedding tables to int8, one scale a row.

A row is looked up by itself, so it can have a scale by itself (Guan et al., "Post-Training 4-bit
Quantization on Embedding Tables", arXiv:1911.02079): a token with large values takes
nothing from the others.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from pipeline.graph.files import constant
from pipeline.quant.calibrate.scales import LEVELS, representable
from pipeline.quant.round.rounding import round_nearest
from pipeline.vectors import FloatArray

LEAST_SHARE = 0.01
"""A table's share of the fp32 graph's bytes from which it is worth a rounding error. The word
embeddings of every encoder are beyond it, their position and type embeddings mostly are not."""


@dataclass(frozen=True, slots=True, kw_only=True)
class QuantizedTable:
    """A ``[rows, channels]`` table's integers, ``[rows]`` steps, and the Gathers that read it."""

    name: str
    lookups: tuple[ir.Node, ...]
    integers: npt.NDArray[np.int8]
    scales: FloatArray


def find_tables(graph: ir.Graph) -> list[ir.Value]:
    """Return the float tables that rows are looked up in, and nothing else is done with."""
    sizes = {
        value: value.const_value.nbytes
        for value in graph.initializers.values()
        if value.const_value is not None
    }
    least = LEAST_SHARE * sum(sizes.values())
    return [
        value
        for value, size in sizes.items()
        if size >= least
        and value.dtype is ir.DataType.FLOAT
        and value.shape is not None
        and len(value.shape) == 2
        and value.uses()
        and all(_looks_up(use.node, use.idx) for use in value.uses())
    ]


def round_tables(graph: ir.Graph) -> Sequence[QuantizedTable]:
    """Return the graph's tables in int8; the graph stays as it is."""
    return [_round(value) for value in find_tables(graph)]


def _round(value: ir.Value) -> QuantizedTable:
    table = constant(value)
    assert table is not None
    scales = representable(np.abs(table).max(axis=1) / LEVELS)
    return QuantizedTable(
        name=value.name or "",
        lookups=tuple(use.node for use in value.uses()),
        integers=round_nearest(table, scales[:, None]),
        scales=scales,
    )


def _looks_up(node: ir.Node, index: int) -> bool:
    axis = node.attributes["axis"].as_int() if "axis" in node.attributes else 0
    return (
        node.op_type == "Gather" and index == 0 and axis == 0 and constant(node.inputs[1]) is None
    )
