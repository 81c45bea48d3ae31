"""Fixed places for a batch: pinned on the host, the same on the device, a stream of its own.

Two of them let one batch be copied while another is computed; fixed addresses are what a CUDA graph
needs.
"""

import queue
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import numpy.typing as npt

from pipeline.engines.buckets import padded_rows
from pipeline.engines.cuda import Cuda, Pinned
from pipeline.errors import MeasureError
from pipeline.text.ragged import TokenBatch

SLOTS = 2


class Slot:
    """Room for a batch of up to ``tokens`` tokens and the embeddings of as many rows."""

    def __init__(
        self,
        cuda: Cuda,
        index: int,
        names: Sequence[str],
        tokens: int,
        dimension: int,
        rows: int | None = None,
    ) -> None:
        """Allocate; ``rows`` is the most that a batch has, where that is known.

        Raises:
            MeasureError: the device has no such room.
        """
        self.index = index
        self.capacity = tokens
        self._rows = tokens if rows is None else min(rows, tokens)
        self._cuda = cuda
        self._dimension = dimension
        self.stream = cuda.make_stream()
        self._device: list[int] = []
        self._pinned: list[Pinned] = []
        try:
            self.inputs = {name: self._allocate(8 * tokens) for name in names}
            self.output = self._allocate(4 * self._rows * dimension)
            self._hosts = {name: self._allocate_pinned(8 * tokens) for name in names}
            self._host_output = self._allocate_pinned(4 * self._rows * dimension)
        except MeasureError:
            self.close()
            raise

    def put(self, batch: TokenBatch, most_rows: int | None = None) -> tuple[int, int]:
        """Copy a batch to the device and return the shape it has there.

        Rows are repeated up to a number that a graph is kept for, ``most_rows`` at most.
        """
        rows, tokens = batch.input_ids.shape
        most = min(self.capacity // tokens, self._rows if most_rows is None else most_rows)
        shape = (min(padded_rows(rows, tokens), most), tokens)
        for name, array in batch.feed(list(self.inputs)).items():
            host = self._hosts[name]
            view = host.view(np.int64, shape)
            view[:rows] = array
            view[rows:] = array[-1]
            self._cuda.copy_in(self.inputs[name], host.address, view.nbytes, self.stream)
        return shape

    def synchronize(self) -> None:
        """Wait until what was put is there."""
        self._cuda.synchronize(self.stream)

    def take(self, rows: int) -> npt.NDArray[np.float32]:
        """Wait for the stream and return a copy of the first embeddings ``[rows, dim]``."""
        view = self._host_output.view(np.float32, (rows, self._dimension))
        self._cuda.copy_out(self._host_output.address, self.output, view.nbytes, self.stream)
        self._cuda.synchronize(self.stream)
        result: npt.NDArray[np.float32] = view.copy()
        return result

    def close(self) -> None:
        """Give everything back."""
        for address in self._device:
            self._cuda.release(address)
        for host in self._pinned:
            self._cuda.release_pinned(host)
        self._cuda.destroy_stream(self.stream)

    def _allocate(self, size: int) -> int:
        self._device.append(self._cuda.allocate(size))
        return self._device[-1]

    def _allocate_pinned(self, size: int) -> Pinned:
        self._pinned.append(self._cuda.allocate_pinned(size))
        return self._pinned[-1]


class Slots:
    """Slots that threads take turns at."""

    def __init__(self, slots: Sequence[Slot]) -> None:
        """Take slots that nobody uses yet; the last that was used goes first, its graphs exist."""
        self._all = slots
        self._free: queue.LifoQueue[Slot] = queue.LifoQueue()
        for slot in slots:
            self._free.put(slot)

    @contextmanager
    def one(self) -> Iterator[Slot]:
        """Give a slot, as soon as one is free."""
        slot = self._free.get()
        try:
            yield slot
        finally:
            self._free.put(slot)

    def close(self) -> None:
        """Give every slot back; nobody may be using one."""
        for slot in self._all:
            slot.close()


def make_slots(
    cuda: Cuda, names: Sequence[str], tokens: int, dimension: int, rows: int | None = None
) -> Slots:
    """Allocate the slots of an engine, or nothing.

    Raises:
        MeasureError: the device has no such room.
    """
    slots: list[Slot] = []
    try:
        for index in range(SLOTS):
            slots.append(Slot(cuda, index, names, tokens, dimension, rows))
    except MeasureError:
        for slot in slots:
            slot.close()
        raise
    return Slots(slots)


def parts(batch: TokenBatch, tokens: int) -> Iterator[TokenBatch]:
    """Cut a batch into such as hold at most ``tokens`` tokens, one row at least."""
    rows, length = batch.input_ids.shape
    most = max(1, tokens // max(length, 1))
    for start in range(0, rows, most):
        cut = slice(start, start + most)
        yield TokenBatch(
            input_ids=batch.input_ids[cut],
            attention_mask=batch.attention_mask[cut],
            token_type_ids=batch.token_type_ids[cut],
        )
