"""Which shapes are worth a CUDA graph, and which of them have one.

A graph is for one shape, costs a run to capture and holds memory, and saves what launching kernels
costs: much of a small batch, nothing of a large one (docs/gpu.md).
"""

from collections import OrderedDict
from collections.abc import Callable
from typing import Generic, TypeVar

from pipeline.text.tokens import bucket

Shape = tuple[int, int]
T = TypeVar("T")

MOST_GRAPHS = 64
"""Graphs at a time, by default; lengths and rows come in 8 steps between powers of two."""

MOST_TOKENS = 8192
"""Rows times tokens up to which a graph is of use: above, kernels take longer than launches."""

SEEN_BEFORE = 1
"""Runs of a shape without a graph, before it gets one: a shape that comes once needs none."""


def padded_rows(rows: int, tokens: int) -> int:
    """Return how many rows to compute for ``rows``: few different numbers where graphs are used."""
    return bucket(rows) if bucket(rows) * tokens <= MOST_TOKENS else rows


class Buckets(Generic[T]):
    """The graphs of one engine by shape, the least recently used given up first. Not thread-safe.

    Where ``drop`` is None a graph cannot be given up: when there are ``most``, other shapes run
    without.
    """

    def __init__(self, drop: Callable[[T], None] | None, most: int = MOST_GRAPHS) -> None:
        """Begin without a graph."""
        self._drop = drop
        self._most = most
        self._graphs: OrderedDict[Shape, T] = OrderedDict()
        self._seen: OrderedDict[Shape, int] = OrderedDict()

    def __len__(self) -> int:
        """Return how many graphs there are."""
        return len(self._graphs)

    def find(self, shape: Shape) -> T | None:
        """Return the shape's graph, or None where it has none."""
        graph = self._graphs.get(shape)
        if graph is not None:
            self._graphs.move_to_end(shape)
        return graph

    def wants(self, shape: Shape) -> bool:
        """Count a run without a graph; say whether the shape should get one now."""
        rows, tokens = shape
        full = len(self._graphs) >= self._most and self._drop is None
        if rows * tokens > MOST_TOKENS or full or not self._most:
            return False
        seen = self._seen.pop(shape, 0)
        self._seen[shape] = seen + 1
        while len(self._seen) > 16 * MOST_GRAPHS:
            self._seen.popitem(last=False)
        return seen >= SEEN_BEFORE

    def add(self, shape: Shape, graph: T) -> None:
        """Keep a shape's graph."""
        while self._drop is not None and len(self._graphs) >= self._most:
            self.drop_oldest()
        self._graphs[shape] = graph
        self._seen.pop(shape, None)

    def drop_oldest(self) -> None:
        """Give the least recently used graph up."""
        _, graph = self._graphs.popitem(last=False)
        if self._drop is not None:
            self._drop(graph)

    def clear(self) -> None:
        """Give every graph up, and want none any more."""
        while self._graphs:
            _, graph = self._graphs.popitem()
            if self._drop is not None:
                self._drop(graph)
        self._most = 0
