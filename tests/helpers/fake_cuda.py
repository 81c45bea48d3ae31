"""A CUDA runtime in the CPU's memory: counts what is held, refuses what is not."""

import ctypes
import threading
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

OK, INVALID, FULL = 0, 1, 2


class FakeRuntime:
    """As ``cuda.bindings.runtime``: every function returns its error code first."""

    cudaStreamNonBlocking = 1
    cudaMemcpyKind = SimpleNamespace(cudaMemcpyHostToDevice=1, cudaMemcpyDeviceToHost=2)
    cudaStreamCaptureMode = SimpleNamespace(cudaStreamCaptureModeThreadLocal=1)

    def __init__(self, devices: int = 1, room: int = 1 << 30) -> None:
        self.devices = devices
        self.room = room
        self.memory: dict[int, Any] = {}
        self.streams: set[int] = set()
        self.graphs: dict[int, list[Callable[[], None]]] = {}
        self.captured: list[Callable[[], None]] | None = None
        self.launched: list[int] = []
        self._next = 1000
        self._lock = threading.Lock()

    def number(self) -> int:
        with self._lock:
            self._next += 1
            return self._next

    @property
    def held(self) -> int:
        return sum(ctypes.sizeof(block) for block in self.memory.values())

    def cudaGetErrorString(self, error: int) -> tuple[int, bytes]:
        return OK, {INVALID: b"invalid argument", FULL: b"out of memory"}[error]

    def cudaGetDeviceCount(self) -> tuple[int, int]:
        return OK, self.devices

    def cudaMemGetInfo(self) -> tuple[int, int, int]:
        return OK, self.room - self.held, self.room

    def cudaMalloc(self, size: int) -> tuple[int, int]:
        if self.held + size > self.room:
            return FULL, 0
        block = (ctypes.c_byte * size)()
        address = ctypes.addressof(block)
        with self._lock:
            self.memory[address] = block
        return OK, address

    cudaMallocHost = cudaMalloc

    def cudaFree(self, address: int) -> tuple[int]:
        return (OK if self.memory.pop(address, None) is not None else INVALID,)

    cudaFreeHost = cudaFree

    def cudaStreamCreateWithFlags(self, flags: int) -> tuple[int, int]:
        stream = self.number()
        self.streams.add(stream)
        return OK, stream

    def cudaStreamDestroy(self, stream: int) -> tuple[int]:
        self.streams.remove(stream)
        return (OK,)

    def cudaStreamSynchronize(self, stream: int) -> tuple[int]:
        return (OK if stream in self.streams else INVALID,)

    def cudaMemcpyAsync(
        self, target: int, source: int, size: int, kind: int, stream: int
    ) -> tuple[int]:
        if stream not in self.streams or kind not in (1, 2):
            return (INVALID,)
        device, host = (target, source) if kind == 1 else (source, target)
        if device not in self.memory or host not in self.memory:
            return (INVALID,)
        ctypes.memmove(target, source, size)
        return (OK,)

    def cudaStreamBeginCapture(self, stream: int, mode: int) -> tuple[int]:
        self.captured = []
        return (OK,)

    def cudaStreamEndCapture(self, stream: int) -> tuple[int, int]:
        graph = self.number()
        self.graphs[graph], self.captured = self.captured or [], None
        return OK, graph

    def cudaGraphInstantiate(self, graph: int, flags: int) -> tuple[int, int]:
        executable = self.number()
        self.graphs[executable] = self.graphs[graph]
        return OK, executable

    def cudaGraphDestroy(self, graph: int) -> tuple[int]:
        del self.graphs[graph]
        return (OK,)

    cudaGraphExecDestroy = cudaGraphDestroy

    def cudaGraphLaunch(self, graph: int, stream: int) -> tuple[int]:
        self.launched.append(graph)
        for work in self.graphs[graph]:
            work()
        return (OK,)

    def enqueue(self, work: Callable[[], None]) -> None:
        """What a kernel launch does: run, or be captured."""
        if self.captured is not None:
            self.captured.append(work)
        else:
            work()
