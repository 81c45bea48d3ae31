"""Cut a graph into pieces, and run them one after another: no more in memory than a piece needs.

Between two pieces only what later ones read is kept, of each batch. Every piece holds its own nodes
from the start, so the graph that it was cut from may change while they run.
"""

import itertools
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from pipeline.engines.onnxruntime import open_session
from pipeline.text.tokens import TokenBatch

Live = dict[str, npt.NDArray[Any]]
"""What is known of a batch between two pieces, by name."""

LEAST_BYTES = 32 * 2**20
"""Weights from which a piece is worth a session of its own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """Consecutive nodes of a graph: what they read and what later ones read of them, by name."""

    model: ir.Model
    reads: tuple[str, ...]
    gives: tuple[str, ...]
    wanted: tuple[str, ...]


def cut(model: ir.Model, starts: Sequence[int], wanted: Sequence[ir.Value]) -> list[Piece]:
    """Cut in front of the nodes of these numbers, ascending, what the ``wanted`` tensors need.

    A graph with control flow stays whole, as a piece of its own.
    """
    graph = model.graph
    nodes = list(graph)
    if any(_holds_graph(node) for node in nodes):
        starts = []
    needed = _needed(wanted)
    inner = [start for start in starts if 0 < start < len(nodes) and _is_typed(nodes, start)]
    pieces = []
    for first, end in itertools.pairwise([0, *inner, len(nodes)]):
        inside = [node for node in nodes[first:end] if node in needed]
        made = dict.fromkeys(value for node in inside for value in node.outputs)
        reads = _names(
            value
            for node in inside
            for value in node.inputs
            if value is not None and value not in made and value.const_value is None
        )
        others = needed.difference(inside)
        gives = _names(v for v in made if any(use.node in others for use in v.uses()))
        asked = _names(value for value in wanted if value in made)
        outputs = tuple(dict.fromkeys((*gives, *asked)))
        if outputs:
            extracted = ir.convenience.extract(graph, reads, outputs)
            piece = ir.Model(extracted, ir_version=model.ir_version)
            pieces.append(Piece(model=piece, reads=reads, gives=gives, wanted=asked))
    return pieces


def cheap_cuts(graph: ir.Graph, least_bytes: int = LEAST_BYTES) -> list[int]:
    """Return where to cut so that little crosses, pieces holding ``least_bytes`` of weights."""
    crossing = _crossing(list(graph))
    inner = crossing[len(crossing) // 8 : -len(crossing) // 8] or crossing
    fewest = min(inner, default=0)
    cuts, held = [], 0
    for number, node in enumerate(graph):
        if number and held >= least_bytes and crossing[number] <= fewest:
            cuts.append(number)
            held = 0
        weights = (v.const_value for v in node.inputs if v is not None)
        held += sum(weight.nbytes for weight in weights if weight is not None)
    return cuts


class Walk:
    """Pieces on their way over batches."""

    def __init__(self, pieces: Sequence[Piece], batches: Sequence[TokenBatch]) -> None:
        """Start in front of the first piece."""
        self._pieces = list(pieces)
        self._live: list[Live] = [_start(batch) for batch in batches]

    def __len__(self) -> int:
        """Return how many pieces are left."""
        return len(self._pieces)

    def step(self) -> Iterator[tuple[int, Mapping[str, npt.NDArray[Any]]]]:
        """Run the next piece, then forget it; yield each batch's number and wanted tensors."""
        piece = self._pieces.pop(0)
        later = {name for other in self._pieces for name in other.reads}
        with tempfile.TemporaryDirectory() as directory:
            path = Path(directory) / "piece.onnx"
            ir.save(piece.model, path, external_data="piece.data")
            session = open_session(path)
            _drop_weights(piece.model)
            outputs = tuple(dict.fromkeys((*piece.gives, *piece.wanted)))
            for number, live in enumerate(self._live):
                feed = {name: live[name] for name in piece.reads}
                results = dict(zip(outputs, session.run(outputs, feed), strict=True))
                live |= {name: results[name] for name in piece.gives}
                self._live[number] = {k: v for k, v in live.items() if k in later}
                yield number, {name: results[name] for name in piece.wanted}


def _drop_weights(model: ir.Model) -> None:
    """Let go of a graph's weights, which it would keep until the collector comes by."""
    for value in model.graph.initializers.values():
        value.const_value = None


def _start(batch: TokenBatch) -> Live:
    names = ("input_ids", "attention_mask", "token_type_ids")
    return dict(batch.feed(list(names)))


def _names(values: Iterable[ir.Value]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(value.name or "" for value in values))


def _holds_graph(node: ir.Node) -> bool:
    kinds = {attribute.type for attribute in node.attributes.values()}
    return bool(kinds & {ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS})


def _needed(wanted: Sequence[ir.Value]) -> set[ir.Node]:
    """Return the nodes that the wanted tensors are computed by."""
    needed: set[ir.Node] = set()
    pending = [value.producer() for value in wanted]
    while pending:
        node = pending.pop()
        if node is not None and node not in needed:
            needed.add(node)
            pending += [value.producer() for value in node.inputs if value is not None]
    return needed


def _is_typed(nodes: Sequence[ir.Node], start: int) -> bool:
    """Whether the type of everything that crosses in front of a node is known."""
    before = set(nodes[:start])
    read = (value for node in nodes[start:] for value in node.inputs if value is not None)
    return all(value.dtype is not None for value in read if value.producer() in before)


def _crossing(nodes: Sequence[ir.Node]) -> list[int]:
    """Return how many computed tensors cross in front of each node."""
    place = {node: number for number, node in enumerate(nodes)}
    change = np.zeros(len(nodes) + 1, np.int64)
    for number, node in enumerate(nodes):
        for value in node.outputs:
            last = max((place[use.node] for use in value.uses() if use.node in place), default=-1)
            if last > number:
                change[number + 1] += 1
                change[last + 1] -= 1
    return [int(count) for count in np.cumsum(change)]
