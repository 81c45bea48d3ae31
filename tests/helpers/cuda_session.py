"""Open a graph on CUDA in this process and run shapes; ``cuda_library`` starts it."""

import ctypes
import json
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import numpy as np

from pipeline.engines.bound import BoundSession
from pipeline.engines.cuda import Cuda
from pipeline.engines.onnxruntime import open_session
from pipeline.text.tokens import TokenBatch

THREADS = 4


class Runtime:
    """As ``cuda.bindings.runtime``, by way of the library that stands in for CUDA."""

    cudaStreamNonBlocking = 1
    cudaMemcpyKind = SimpleNamespace(cudaMemcpyHostToDevice=1, cudaMemcpyDeviceToHost=2)

    def __init__(self, library: Path) -> None:
        self._library = ctypes.CDLL(str(library / "cuda_library.so"))
        self._library.cudaGetErrorString.restype = ctypes.c_char_p

    def cudaGetErrorString(self, error: int) -> tuple[int, bytes]:
        return 0, self._library.cudaGetErrorString(error)

    def cudaGetDeviceCount(self) -> tuple[int, int]:
        return 0, 1

    def cudaMalloc(self, size: int) -> tuple[int, int]:
        return self._pointer("cudaMalloc", ctypes.c_size_t(size))

    def cudaMallocHost(self, size: int) -> tuple[int, int]:
        return self._pointer("cudaMallocHost", ctypes.c_size_t(size))

    def cudaStreamCreateWithFlags(self, flags: int) -> tuple[int, int]:
        return self._pointer("cudaStreamCreateWithFlags", flags)

    def cudaStreamSynchronize(self, stream: int) -> tuple[int]:
        return (self._library.cudaStreamSynchronize(ctypes.c_void_p(stream)),)

    def cudaMemcpyAsync(self, to: int, at: int, size: int, kind: int, stream: int) -> tuple[int]:
        pointers = [ctypes.c_void_p(value) for value in (to, at)]
        call = self._library.cudaMemcpyAsync
        return (call(*pointers, ctypes.c_size_t(size), kind, ctypes.c_void_p(stream)),)

    def _pointer(self, name: str, argument: object) -> tuple[int, int]:
        pointer = ctypes.c_void_p()
        error = getattr(self._library, name)(ctypes.byref(pointer), argument)
        return error, pointer.value or 0


def main(library: str, graph: str, shapes: Sequence[tuple[int, int]]) -> dict[str, object]:
    """Run every shape three times, in some threads at once, and say how many have a graph."""
    session = open_session(Path(graph), cuda=True, graphs=True)
    bound = BoundSession(session, Cuda(Runtime(Path(library))), graphs=True, tokens=4096)

    def run(shape: tuple[int, int]) -> None:
        ones = np.ones(shape, np.int64)
        batch = TokenBatch(input_ids=ones, attention_mask=ones, token_type_ids=0 * ones)
        for _ in range(3):
            bound.encode(batch)

    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(run, [(rows, tokens) for rows, tokens in shapes]))
    return {"providers": session.get_providers(), "graphs": bound.graphs}


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1], sys.argv[2], json.loads(sys.argv[3]))))
