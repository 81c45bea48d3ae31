"""Group the groups: blocks that conditioning changes without touching what lies outside.

A block is a few neighbouring groups of GEMMs with everything that their shifts, factors and copies
can be folded into (a norm in front, the projection behind attention, the GEMM in front of an
activation function). Its statistics are all that has to be in memory at a time.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import onnx_ir as ir

from pipeline.graph.gemms import Gemm, GemmGroup
from pipeline.quant.condition.folds import (
    find_gated_projection,
    find_norm,
    find_value_projection,
)
from pipeline.quant.condition.splitting import find_expansion


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """Groups in graph order, and the number of the first node that belongs to them."""

    start: int
    groups: tuple[GemmGroup, ...]


def find_blocks(graph: ir.Graph, groups: Sequence[GemmGroup]) -> list[Block]:
    """Return the smallest blocks, in graph order."""
    place = {node: number for number, node in enumerate(graph)}
    gemms = {gemm.output: gemm for group in groups for gemm in group.gemms}
    spans = []
    for group in groups:
        numbers = [place[node] for node in _touched(group, gemms) if node in place]
        spans.append((min(numbers), max(numbers), group))
    blocks: list[Block] = []
    end = -1
    for first, last, group in sorted(spans, key=lambda span: span[0]):
        if blocks and first <= end:
            before = blocks[-1]
            blocks[-1] = Block(start=before.start, groups=(*before.groups, group))
        else:
            blocks.append(Block(start=first, groups=(group,)))
        end = max(end, last)
    order = {group.activation: number for number, group in enumerate(groups)}
    return [
        Block(
            start=block.start,
            groups=tuple(sorted(block.groups, key=lambda group: order[group.activation])),
        )
        for block in blocks
    ]


def _touched(group: GemmGroup, gemms: Mapping[ir.Value, Gemm]) -> list[ir.Node]:
    """Return the nodes that conditioning a group may read or change."""
    nodes = [node for gemm in group.gemms for node in (gemm.node, gemm.bias) if node is not None]
    norm = find_norm(group)
    sources = [find_value_projection(group, gemms), find_gated_projection(group, gemms)]
    expansion = find_expansion(group, gemms)
    if norm is not None:
        nodes += [norm.scale[0], norm.last, *(use.node for use in group.activation.uses())]
    nodes += [source.gemm.node for source in sources if source is not None]
    nodes += [expansion.source.node] if expansion is not None else []
    return nodes
