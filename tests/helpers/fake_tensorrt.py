"""A TensorRT whose plans run on the CUDA of ``fake_cuda``: what it forbids fails here.

A plan gives, for each row, its first and last token and the sum of its tokens. Its kernels are
compiled when a profile sees a shape first, unless the runtime cache has them (TensorRT-RTX).
"""

import ctypes
import json
import threading
import time
import weakref
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt
from fake_cuda import FakeRuntime

INPUTS = ("input_ids", "attention_mask")
OUTPUT = "sentence_embedding"
DIMENSION = 3
Profile = tuple[tuple[int, int], tuple[int, int]]


def outcome(ids: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    return np.stack([ids[:, 0], ids[:, -1], ids.sum(axis=1)], axis=1).astype(np.float32)


def _view(address: int, kind: Any, shape: tuple[int, ...]) -> npt.NDArray[Any]:
    size = np.dtype(kind).itemsize * int(np.prod(shape))
    return np.frombuffer((ctypes.c_byte * size).from_address(address), kind).reshape(shape)


class Logger:
    Severity = SimpleNamespace(INTERNAL_ERROR=0, ERROR=1, WARNING=2)

    def __init__(self) -> None:
        pass

    def log(self, level: Any, text: str) -> None:
        raise NotImplementedError


class FakeTensorRT:
    """The module, and what was asked of it."""

    __version__ = "11.4.0"
    ILogger = Logger
    TensorIOMode = SimpleNamespace(INPUT=0, OUTPUT=1)
    ExecutionContextAllocationStrategy = SimpleNamespace(USER_MANAGED=2)
    DynamicShapesKernelSpecializationStrategy: Any
    """TensorRT-RTX alone has it."""

    def __init__(self, cuda: FakeRuntime, profiles: Sequence[Profile], working: int = 64) -> None:
        self.cuda = cuda
        self.profiles = profiles
        self.working = working
        self.contexts: weakref.WeakSet[Context] = weakref.WeakSet()
        self.runs: list[tuple[int, tuple[int, int]]] = []
        self.capturable: bool | None = None
        self.specialized: list[str] = []
        self.refuse = ""
        self.running = threading.Lock()
        self.gpu = "NVIDIA RTX 4090"
        self.compiled: list[tuple[int, tuple[int, int]]] = []
        self.kernel_bytes = 8

    def Runtime(self, logger: Any) -> Any:
        self.logger = logger

        def deserialize(content: bytes) -> Any:
            if content != b"plan":
                logger.log(Logger.Severity.ERROR, "magic tag\n does not match")
                return None
            return Engine(self)

        return SimpleNamespace(deserialize_cuda_engine=deserialize)

    def allows(self, what: str) -> bool:
        if self.refuse == what:
            self.logger.log(Logger.Severity.ERROR, f"{what} refused")
        return self.refuse != what


class Engine:
    num_io_tensors = len(INPUTS) + 1

    def __init__(self, module: FakeTensorRT) -> None:
        self.module = module
        self.num_optimization_profiles = len(module.profiles)

    def get_tensor_name(self, index: int) -> str:
        return (*INPUTS, OUTPUT)[index]

    def get_tensor_mode(self, name: str) -> int:
        return int(name == OUTPUT)

    def get_tensor_shape(self, name: str) -> tuple[int, int]:
        return (-1, DIMENSION if name == OUTPUT else -1)

    def get_tensor_profile_shape(self, name: str, index: int) -> list[tuple[int, int]]:
        low, high = self.module.profiles[index]
        return [low, high, high]

    def get_device_memory_size_for_profile_v2(self, index: int) -> int:
        return self.module.working * (index + 1)

    def create_execution_context(self, how: "int | RuntimeConfig") -> Any:
        config = how if isinstance(how, RuntimeConfig) else None
        strategy = how if config is None else config.strategy
        assert strategy == FakeTensorRT.ExecutionContextAllocationStrategy.USER_MANAGED
        if not self.module.allows("context"):
            return None
        self.module.specialized.append(
            "lazy" if config is None else config.dynamic_shapes_kernel_specialization_strategy
        )
        kind = Context if self.module.capturable is None else AskedContext
        return kind(self, config.cache if config is not None else None)

    def create_runtime_config(self) -> "RuntimeConfig | None":
        return RuntimeConfig(self.module) if self.module.allows("configuration") else None


class RuntimeConfig:
    def __init__(self, module: FakeTensorRT) -> None:
        self.module = module
        self.strategy = 0
        self.dynamic_shapes_kernel_specialization_strategy = "lazy"
        self.cache: RuntimeCache | None = None

    def create_runtime_cache(self) -> "RuntimeCache":
        return RuntimeCache(self.module)

    def set_runtime_cache(self, cache: "RuntimeCache") -> bool:
        self.cache = cache
        return self.module.allows("runtime cache")

    def set_execution_context_allocation_strategy(self, strategy: int) -> None:
        self.strategy = strategy


class RuntimeCache:
    """Its bytes begin with what they are for; those of no cache at all end a real process."""

    def __init__(self, module: FakeTensorRT) -> None:
        self.module = module
        self.kernels: set[tuple[int, tuple[int, int]]] = set()

    def serialize(self) -> bytes | None:
        assert self.module.cuda.captured is None, "in the middle of a capture"
        if not self.module.allows("serialize"):
            return None
        kernels = sorted([profile, *shape] for profile, shape in self.kernels)
        content = json.dumps({"gpu": self.module.gpu, "kernels": kernels})
        return content.encode() + b" " * self.module.kernel_bytes * len(kernels)

    def deserialize(self, blob: bytes) -> bool:
        content = json.loads(blob)
        if content["gpu"] != self.module.gpu:
            return False
        self.kernels |= {(profile, (rows, tokens)) for profile, rows, tokens in content["kernels"]}
        return True


class Context:
    def __init__(self, engine: Engine, cache: RuntimeCache | None = None) -> None:
        self.engine = engine
        self.cache = RuntimeCache(engine.module) if cache is None else cache
        self.module = engine.module
        self.module.contexts.add(self)
        self.profile = -1
        self.memory = 0
        self.shapes: dict[str, tuple[int, int]] = {}
        self.addresses: dict[str, int] = {}
        self.settled: Any = None

    def set_optimization_profile_async(self, index: int, stream: int) -> bool:
        assert stream in self.module.cuda.streams
        self.profile = index
        return self.module.allows("profile")

    def set_device_memory(self, address: int, size: int) -> None:
        assert size >= self.engine.get_device_memory_size_for_profile_v2(self.profile)
        assert ctypes.sizeof(self.module.cuda.memory[address]) >= size
        self.memory = address

    def set_input_shape(self, name: str, shape: tuple[int, int]) -> bool:
        low, high = self.module.profiles[self.profile]
        self.shapes[name] = shape
        fits = all(a <= b <= c for a, b, c in zip(low, shape, high, strict=True))
        return fits and self.module.allows("shape")

    def set_tensor_address(self, name: str, address: int) -> bool:
        self.addresses[name] = address
        return self.module.allows("address")

    def execute_async_v3(self, stream: int) -> bool:
        cuda, shape = self.module.cuda, self.shapes["input_ids"]
        assert stream in cuda.streams
        assert self.memory in cuda.memory
        for name, address in self.addresses.items():
            size = 4 * shape[0] * DIMENSION if name == OUTPUT else 8 * shape[0] * shape[1]
            assert ctypes.sizeof(cuda.memory[address]) >= size, name
        state = (dict(self.shapes), dict(self.addresses))
        if cuda.captured is not None:
            assert self.settled == state, "captured before a run of this shape"
            if not self.module.allows("capture"):
                return False
        elif not self.module.allows("run"):
            return False
        elif len(self.module.contexts) > 1 and not self.module.allows("second context"):
            _view(self.addresses[OUTPUT], np.float32, (shape[0], DIMENSION))[:] = np.nan
            return False
        self.settled = state
        if (kernel := (self.profile, shape)) not in self.cache.kernels:
            assert cuda.captured is None, "compiles in the middle of a capture"
            self.cache.kernels.add(kernel)
            self.module.compiled.append(kernel)
        self.module.runs.append((self.profile, shape))
        cuda.enqueue(_work(weakref.ref(self), state))
        return True


def _work(alive: Any, state: Any) -> Any:
    def run() -> None:
        context = alive()
        assert context is not None, "a graph outlived its context"
        assert (context.shapes, context.addresses) == state, "the context was changed"
        assert context.module.running.acquire(blocking=False), "two runs in the same memory"
        try:
            time.sleep(0.0005)
            (shapes, addresses) = state
            ids = _view(addresses["input_ids"], np.int64, shapes["input_ids"])
            rows = shapes["input_ids"][0]
            _view(addresses[OUTPUT], np.float32, (rows, DIMENSION))[:] = outcome(ids)
        finally:
            context.module.running.release()

    return run


class AskedContext(Context):
    """Of TensorRT-RTX: says whether it can be captured."""

    def is_stream_capturable(self, stream: int) -> bool:
        return bool(self.module.capturable)
