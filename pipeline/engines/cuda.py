"""Device memory, pinned host memory, streams and CUDA graphs, by NVIDIA's own ``cuda-bindings``.

Enough of CUDA for an engine to keep its inputs and outputs on the device and to replay what it
enqueued once; no PyTorch. Every call's error code becomes a ``MeasureError`` with CUDA's own words.
"""

import ctypes
import importlib
import importlib.util
from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.errors import MeasureError


def missing() -> str | None:
    """Return why CUDA cannot be called from here, or None where it can."""
    try:
        found = importlib.util.find_spec("cuda.bindings.runtime") is not None
    except ModuleNotFoundError:
        found = False
    return None if found else "Python package cuda-bindings is not installed (extra: gpu)"


class Cuda:
    """The CUDA runtime of the current device."""

    def __init__(self, runtime: ModuleType | Any | None = None) -> None:
        """Load the bindings; ``runtime`` stands in for them in tests.

        Raises:
            MeasureError: not installed, or there is no device.
        """
        reason = missing() if runtime is None else None
        if reason is not None:
            raise MeasureError(f"CUDA: {reason}")
        self._api = runtime or importlib.import_module("cuda.bindings.runtime")
        if not self._call("cudaGetDeviceCount"):
            raise MeasureError("CUDA: no device on this machine")

    def free_bytes(self) -> int:
        """Return the device's free memory."""
        free, _ = self._call("cudaMemGetInfo")
        return int(free)

    def allocate(self, size: int) -> int:
        """Return the address of ``size`` bytes on the device."""
        return int(self._call("cudaMalloc", size))

    def release(self, address: int) -> None:
        """Give device memory back."""
        self._call("cudaFree", address)

    def allocate_pinned(self, size: int) -> "Pinned":
        """Return host memory that copies need not stage."""
        return Pinned(int(self._call("cudaMallocHost", size)), size)

    def release_pinned(self, memory: "Pinned") -> None:
        """Give host memory back."""
        self._call("cudaFreeHost", memory.address)

    def make_stream(self) -> int:
        """Return a stream that waits for no other."""
        return int(self._call("cudaStreamCreateWithFlags", self._api.cudaStreamNonBlocking))

    def destroy_stream(self, stream: int) -> None:
        """Destroy a stream."""
        self._call("cudaStreamDestroy", stream)

    def synchronize(self, stream: int) -> None:
        """Wait until what was enqueued is done."""
        self._call("cudaStreamSynchronize", stream)

    def copy_in(self, device: int, host: int, size: int, stream: int) -> None:
        """Enqueue a copy to the device."""
        kind = self._api.cudaMemcpyKind.cudaMemcpyHostToDevice
        self._call("cudaMemcpyAsync", device, host, size, kind, stream)

    def copy_out(self, host: int, device: int, size: int, stream: int) -> None:
        """Enqueue a copy from the device."""
        kind = self._api.cudaMemcpyKind.cudaMemcpyDeviceToHost
        self._call("cudaMemcpyAsync", host, device, size, kind, stream)

    def capture(self, stream: int, enqueue: Callable[[], None]) -> int:
        """Return what ``enqueue`` puts into the stream as a graph to replay; nothing of it runs.

        Raises:
            MeasureError: something of it cannot be captured, or ``enqueue``'s own.
        """
        mode = self._api.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        self._call("cudaStreamBeginCapture", stream, mode)
        try:
            enqueue()
        except BaseException:
            self._api.cudaStreamEndCapture(stream)
            raise
        graph = self._call("cudaStreamEndCapture", stream)
        try:
            return int(self._call("cudaGraphInstantiate", graph, 0))
        finally:
            self._call("cudaGraphDestroy", graph)

    def replay(self, graph: int, stream: int) -> None:
        """Enqueue a captured graph."""
        self._call("cudaGraphLaunch", graph, stream)

    def destroy_graph(self, graph: int) -> None:
        """Give a captured graph and its memory back."""
        self._call("cudaGraphExecDestroy", graph)

    def _call(self, name: str, *arguments: Any) -> Any:
        """Call a function of the runtime and return what it gives beside its error code."""
        error, *values = getattr(self._api, name)(*arguments)
        if int(error) != 0:
            _, text = self._api.cudaGetErrorString(error)
            words = text.decode() if isinstance(text, bytes) else str(text)
            raise MeasureError(f"CUDA: {name}: {words}")
        return values[0] if len(values) == 1 else tuple(values)


class Pinned:
    """Page-locked host memory at an address."""

    def __init__(self, address: int, size: int) -> None:
        """Describe memory that was allocated."""
        self.address = address
        self.size = size

    def view(self, dtype: npt.DTypeLike, shape: tuple[int, ...]) -> npt.NDArray[Any]:
        """Return an array over the beginning of it, with no copy."""
        kind = np.dtype(dtype)
        size = kind.itemsize * int(np.prod(shape))
        if size > self.size:
            raise ValueError(f"{size} bytes of {self.size}")
        memory = (ctypes.c_byte * size).from_address(self.address)
        return np.frombuffer(memoryview(memory), kind).reshape(shape)
