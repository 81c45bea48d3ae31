"""A plan whose inputs and outputs stay at fixed places on the device, with CUDA graphs by shape.

A graph holds the addresses and the state of the context it was captured from, and replaying it is
undefined once that context takes another shape: each graph has a context of its own
(https://docs.nvidia.com/deeplearning/tensorrt/latest/performance/best-practices.html#cuda-graphs).
"""

import logging
import threading
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.contracts import GRAPH_OUTPUT
from pipeline.engines.buckets import Buckets
from pipeline.engines.cuda import Cuda
from pipeline.engines.plan import Plan, is_capturable
from pipeline.engines.slots import Slot, make_slots, parts
from pipeline.errors import MeasureError
from pipeline.text.ragged import TokenBatch

log = logging.getLogger(__name__)

PLAN_TOKENS = 32_768
"""Tokens in a batch, as for ONNX Runtime on CUDA; more rows than that are run in parts."""

MOST_GRAPH_BYTES = 1 << 30
"""Device memory that graphs and their contexts may hold together."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Captured:
    """A graph, the context that it needs as long as it lives, and the memory that both took."""

    graph: int
    context: Any
    size: int


class BoundPlan:
    """Runs batches on the device; threads may call it at once.

    One batch is computed at a time; the next is copied meanwhile.
    """

    def __init__(self, plan: Plan, cuda: Cuda, *, tokens: int = PLAN_TOKENS) -> None:
        """Allocate room for batches of ``tokens``, or of what the plan takes where that is less.

        Raises:
            MeasureError: no room on the device.
        """
        self._plan = plan
        self._cuda = cuda
        longest = max(high for _, high, _ in plan.bounds)
        largest = max(high * rows for _, high, rows in plan.bounds)
        self.tokens = max(longest, min(tokens, largest))
        rows = max(rows for _, _, rows in plan.bounds)
        self._slots = make_slots(cuda, plan.inputs, self.tokens, plan.dimension, rows)
        self._contexts: dict[int, Any] = {}
        self._graphs: Buckets[dict[int, Captured]] = Buckets(self._drop)
        self._graph_bytes = 0
        self._running = threading.Lock()

    @property
    def graphs(self) -> int:
        """How many shapes have a graph."""
        return len(self._graphs)

    def encode(self, batch: TokenBatch) -> npt.NDArray[np.float32]:
        """Return the embeddings of a batch, float32 ``[batch, dim]``, in parts a profile takes.

        Raises:
            MeasureError: no profile takes this length, or TensorRT or CUDA refused.
        """
        length = batch.input_ids.shape[1]
        profile = self._plan.pick_profile(length)
        most = self._plan.bounds[profile][2]
        tokens = min(self.tokens, most * length)
        done = [self._encode(part, profile, most) for part in parts(batch, tokens)]
        return done[0] if len(done) == 1 else np.concatenate(done)

    def close(self) -> None:
        """Give everything back, the plan's memory too; nobody may be encoding."""
        self._graphs.clear()
        self._contexts.clear()
        self._slots.close()
        self._plan.close()

    def _encode(self, batch: TokenBatch, profile: int, most: int) -> npt.NDArray[np.float32]:
        with self._slots.one() as slot:
            shape = slot.put(batch, most)
            slot.synchronize()
            with self._running:
                self._run(slot, shape, profile)
            return slot.take(len(batch.input_ids))

    def _run(self, slot: Slot, shape: tuple[int, int], profile: int) -> None:
        """Compute what is in a slot and wait for it: the next run works in the same memory."""
        captured = self._graphs.find(shape)
        if captured is not None and slot.index in captured:
            self._cuda.replay(captured[slot.index].graph, slot.stream)
            self._cuda.synchronize(slot.stream)
            return
        context = self._run_without_graph(slot, shape, profile)
        wanted = captured is not None or self._graphs.wants(shape)
        if not wanted or not is_capturable(context, slot.stream):
            return
        try:
            self._keep(slot, shape, self._capture(slot, shape, profile))
        except MeasureError as error:
            # Its words, not itself: a handler that keeps it would keep the context.
            log.info("%s: CUDA graphs off: %s", self._plan.runtime, str(error))
        else:
            return
        self._graphs.clear()
        self._run_without_graph(slot, shape, profile)  # the attempt wrote to the output

    def _run_without_graph(self, slot: Slot, shape: tuple[int, int], profile: int) -> Any:
        if profile not in self._contexts:
            self._contexts[profile] = self._plan.make_context(profile)
        context = self._contexts[profile]
        self._bind_and_run(context, slot, shape)
        self._plan.ran()
        return context

    def _bind_and_run(self, context: Any, slot: Slot, shape: tuple[int, int]) -> None:
        self._plan.bind(context, shape, {**slot.inputs, GRAPH_OUTPUT: slot.output})
        self._plan.enqueue(context, slot.stream)
        self._cuda.synchronize(slot.stream)

    def _capture(self, slot: Slot, shape: tuple[int, int], profile: int) -> Captured:
        free = self._cuda.free_bytes()
        context = self._plan.make_context(profile, settled=True)
        self._bind_and_run(context, slot, shape)  # a shape's first run does what none captures
        if not is_capturable(context, slot.stream):
            raise MeasureError("a context of the same shape says that it cannot be captured")
        graph = self._cuda.capture(slot.stream, lambda: self._plan.enqueue(context, slot.stream))
        size = max(0, free - self._cuda.free_bytes())  # others may have given memory back meanwhile
        return Captured(graph=graph, context=context, size=size)

    def _keep(self, slot: Slot, shape: tuple[int, int], captured: Captured) -> None:
        self._graph_bytes += captured.size
        there = self._graphs.find(shape)
        if there is None:
            self._graphs.add(shape, {slot.index: captured})
        else:
            there[slot.index] = captured
        while self._graph_bytes > MOST_GRAPH_BYTES and len(self._graphs):
            self._graphs.drop_oldest()

    def _drop(self, captured: dict[int, Captured]) -> None:
        for one in captured.values():
            self._cuda.destroy_graph(one.graph)
            self._graph_bytes -= one.size
        captured.clear()
