"""An ONNX Runtime session on CUDA whose inputs and outputs stay on the device, with CUDA graphs.

ONNX Runtime keeps graphs, and handles and workspaces of CUDA's libraries, for each thread that runs
a session, until the session ends: one thread makes all runs. A graph is captured by the number that
a run is given and replayed when the number comes again; there are at most ``MOST_GRAPHS``, for the
shapes that came twice first, and others run without
(https://onnxruntime.ai/docs/execution-providers/CUDA-ExecutionProvider.html#using-cuda-graphs-preview).
"""

import logging
import threading
import time
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import nullcontext
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.contracts import GRAPH_OUTPUT
from pipeline.engines.buckets import Buckets
from pipeline.engines.cuda import Cuda
from pipeline.engines.slots import Slot, make_slots, parts
from pipeline.engines.sweep import SIZES, useful_tokens
from pipeline.errors import MeasureError, first_line
from pipeline.text.ragged import TokenBatch

log = logging.getLogger(__name__)

CUDA_TOKENS = 32_768
"""Most tokens in a batch: an H200 takes no longer a token with more (docs/gpu.md). ONNX Runtime's
memory grows with the largest batch and is not given back, so this bounds it too."""

_TRIED_LENGTH, _TRIED_RUNS = 16, 3
"""Tokens in a text, which every model takes, and runs, of which the fastest counts."""

_GRAPH_ID = "gpu_graph_id"
_NO_GRAPH = -1

_RUNS = ThreadPoolExecutor(1, thread_name_prefix="onnxruntime_cuda")
"""Runs every session: what one allocates would spoil what another captures."""

CAPTURE = threading.Lock()
"""Held while a graph is captured, and for whatever must not happen meanwhile.

ONNX Runtime captures in CUDA's global mode: until it is done, no thread of the process may allocate
or wait for the device, and one that does spoils the capture. (Other libraries do not ask.)
"""


class BoundSession:
    """Runs batches on the device; threads may call it at once.

    One batch is computed at a time; the next is copied meanwhile.
    """

    def __init__(
        self, session: Any, cuda: Cuda, *, graphs: bool, tokens: int = CUDA_TOKENS
    ) -> None:
        """Allocate room for batches of ``tokens``; ``graphs`` says that the session may capture.

        Raises:
            MeasureError: no room on the device, or the graph's output has no fixed dimension.
        """
        self._session = session
        self._names = [value.name for value in session.get_inputs()]
        dimension = next(o for o in session.get_outputs() if o.name == GRAPH_OUTPUT).shape[-1]
        if not isinstance(dimension, int):
            raise MeasureError(f"output {GRAPH_OUTPUT}: dimension {dimension!r} is not a number")
        self.tokens = tokens
        self._dimension = dimension
        with CAPTURE:
            self._slots = make_slots(cuda, self._names, tokens, dimension)
        # ONNX Runtime cannot drop a graph; a graph knows the addresses of one slot only.
        self._graphs: Buckets[dict[int, int]] = Buckets(None)
        self._captures = graphs
        self._next_id = 1

    @property
    def graphs(self) -> int:
        """How many shapes have a graph."""
        return len(self._graphs)

    def encode(self, batch: TokenBatch, *, graph: bool = True) -> npt.NDArray[np.float32]:
        """Return the embeddings of a batch, float32 ``[batch, dim]``.

        ``graph`` False runs it without a CUDA graph, and captures none.

        Raises:
            MeasureError: ONNX Runtime or CUDA refused; their words are in the message.
        """
        done = [self._encode(part, graph=graph) for part in parts(batch, self.tokens)]
        return done[0] if len(done) == 1 else np.concatenate(done)

    def measure_tokens(self) -> int:
        """Return how many tokens at once this GPU is fast on, by trying (``engines.sweep``)."""

        def seconds(tokens: int) -> float:
            zeros = np.zeros((tokens // _TRIED_LENGTH, _TRIED_LENGTH), np.int64)
            shown = np.ones_like(zeros)
            batch = TokenBatch(input_ids=zeros, attention_mask=shown, token_type_ids=zeros)
            self.encode(batch, graph=False)  # memory for a size is found at its first run
            times = []
            for _ in range(_TRIED_RUNS):
                started = time.perf_counter()
                self.encode(batch, graph=False)
                times.append(time.perf_counter() - started)
            return min(times)

        return useful_tokens(seconds, sizes=[size for size in SIZES if size <= self.tokens])

    def _encode(self, batch: TokenBatch, *, graph: bool) -> npt.NDArray[np.float32]:
        if batch.input_ids.size > self.tokens:
            raise MeasureError(f"a text of {batch.input_ids.size} tokens: at most {self.tokens}")
        with self._slots.one() as slot:
            with CAPTURE:
                shape = slot.put(batch)
                slot.synchronize()
            running = _RUNS.submit(self._run, slot, shape, graph)
            try:
                running.result()
            finally:
                wait([running])  # Ctrl-C came in between: nobody else gets the slot before it ends
            with CAPTURE:
                return slot.take(len(batch.input_ids))

    def _run(self, slot: Slot, shape: tuple[int, int], graph: bool) -> None:
        """Run under a graph, captured now where it is new, or without where that fails."""
        before = self._next_id
        number = self._graph_id(slot, shape) if graph else _NO_GRAPH
        try:
            with CAPTURE if number >= before else nullcontext():
                self._run_as(number, slot, shape)
        except MeasureError as error:
            if number < before:
                raise
            log.info("ONNX Runtime: CUDA graphs off: %s", error)
            self._graphs.clear()
            self._run_as(_NO_GRAPH, slot, shape)

    def _run_as(self, number: int, slot: Slot, shape: tuple[int, int]) -> None:
        import onnxruntime as ort

        binding = self._session.io_binding()
        for name, address in slot.inputs.items():
            binding.bind_input(name, "cuda", 0, np.int64, shape, address)
        output = (shape[0], self._dimension)
        binding.bind_output(GRAPH_OUTPUT, "cuda", 0, np.float32, output, slot.output)
        options = ort.RunOptions()
        options.add_run_config_entry(_GRAPH_ID, str(number))
        try:
            self._session.run_with_iobinding(binding, options)
        except Exception as error:  # onnxruntime's exceptions share no public base
            raise MeasureError(
                f"ONNX Runtime could not run {shape}: {first_line(error)}"
            ) from error

    def _graph_id(self, slot: Slot, shape: tuple[int, int]) -> int:
        """Return the number to run a shape under in a slot; a new one is captured by its run."""
        if not self._captures:
            return _NO_GRAPH
        ids = self._graphs.find(shape)
        if ids is None:
            if not self._graphs.wants(shape):
                return _NO_GRAPH
            ids = {}
            self._graphs.add(shape, ids)
        if slot.index not in ids:
            ids[slot.index] = self._next_id
            self._next_id += 1
        return ids[slot.index]
