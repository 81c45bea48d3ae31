"""A plan of TensorRT or TensorRT-RTX on the device: its profiles, its contexts, what it says.

Deserializing a plan runs code from it: callers check the file's sha256 against the manifest first.
"""

import importlib
import logging
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.contracts import GRAPH_OUTPUT
from pipeline.engines.cuda import Cuda
from pipeline.engines.runtime_cache import RuntimeCache, configure
from pipeline.errors import MeasureError

if TYPE_CHECKING:
    import tensorrt as trt

log = logging.getLogger(__name__)


class Plan:
    """A deserialized plan. Not thread-safe, and one run at a time: contexts share their memory."""

    def __init__(
        self,
        content: bytes,
        runtime: str,
        cuda: Cuda,
        source: str,
        *,
        kernels: Path | None = None,
    ) -> None:
        """Deserialize for the current CUDA device; ``source`` is what errors call the plan.

        ``kernels`` is the file in which TensorRT-RTX keeps what it compiles for this device.

        Raises:
            MeasureError: TensorRT refuses the plan, its own words are in the message; or the plan
                does not give sentence embeddings of one length.
        """
        self.runtime = runtime
        self._cuda = cuda
        self._module = importlib.import_module(runtime)
        self._errors: deque[str] = deque(maxlen=3)
        self._logger = _make_logger(self._module, self._errors)
        self._runtime: trt.Runtime = self._module.Runtime(self._logger)
        engine = self._runtime.deserialize_cuda_engine(content)
        if engine is None:
            raise MeasureError(f"{runtime} cannot load {source}: {self._words()}")
        self._engine: trt.ICudaEngine = engine
        names = [engine.get_tensor_name(i) for i in range(engine.num_io_tensors)]
        mode = self._module.TensorIOMode.INPUT
        self.inputs = [name for name in names if engine.get_tensor_mode(name) == mode]
        self.bounds = [self._profile_bounds(i) for i in range(engine.num_optimization_profiles)]
        shape = tuple(engine.get_tensor_shape(GRAPH_OUTPUT)) if GRAPH_OUTPUT in names else None
        if shape is None or len(shape) != 2 or shape[1] < 1:
            raise MeasureError(
                f"{source}: expected an output {GRAPH_OUTPUT} [batch, dimension], saw {shape}; "
                "build it again with python -m pipeline.build"
            )
        self.dimension = int(shape[1])
        self._kernels: RuntimeCache | None = None
        if kernels is not None and runtime == "tensorrt_rtx":
            self._kernels = RuntimeCache(kernels, engine)
        self._memory: dict[int, tuple[int, int]] = {}
        self._stream = cuda.make_stream()

    def pick_profile(self, length: int) -> int:
        """Return the first profile that takes texts of so many tokens.

        Raises:
            MeasureError: none does.
        """
        for index, (low, high, _) in enumerate(self.bounds):
            if low <= length <= high:
                return index
        raise MeasureError(f"{self.runtime}: no optimization profile takes {length} tokens")

    def make_context(self, profile: int, *, settled: bool = False) -> "trt.IExecutionContext":
        """Return a new context of a profile; all of one profile work in the same device memory.

        ``settled``: a shape's first run compiles its kernels. Otherwise TensorRT-RTX does so behind
        the first runs and then swaps them, which a graph that was captured before does not survive.

        Raises:
            MeasureError: TensorRT gives none, or the device has no room.
        """
        how: Any = self._module.ExecutionContextAllocationStrategy.USER_MANAGED
        strategies = getattr(self._module, "DynamicShapesKernelSpecializationStrategy", None)
        if self._kernels is not None:
            how = self._kernels.configure(how)
        elif settled and strategies is not None:
            how = configure(self._engine, how)
        if settled and strategies is not None:
            how.dynamic_shapes_kernel_specialization_strategy = strategies.EAGER
        context = self._engine.create_execution_context(how)
        if context is None:
            raise MeasureError(f"{self.runtime} gives no execution context: {self._words()}")
        if not context.set_optimization_profile_async(profile, self._stream):
            raise MeasureError(f"{self.runtime} refuses profile {profile}: {self._words()}")
        self._cuda.synchronize(self._stream)  # whoever enqueues does so on another stream
        address, size = self._working_memory(profile)
        context.set_device_memory(address, size)
        return context

    def bind(
        self,
        context: "trt.IExecutionContext",
        shape: tuple[int, int],
        addresses: Mapping[str, int],
    ) -> None:
        """Point a context at inputs of a shape and at the output, by name, on the device.

        Raises:
            MeasureError: TensorRT refuses the shape or an address.
        """
        for name in self.inputs:
            if not context.set_input_shape(name, shape):
                raise MeasureError(f"{self.runtime}: shape {shape} of {name}: {self._words()}")
        for name in (*self.inputs, GRAPH_OUTPUT):
            if not context.set_tensor_address(name, addresses[name]):
                raise MeasureError(f"{self.runtime}: address of {name}: {self._words()}")

    def enqueue(self, context: "trt.IExecutionContext", stream: int) -> None:
        """Put a run of what is bound into a stream.

        Raises:
            MeasureError: TensorRT could not; its own words are in the message.
        """
        if not context.execute_async_v3(stream):
            raise MeasureError(f"{self.runtime} could not run a batch: {self._words()}")

    def ran(self) -> None:
        """Note that a run ended, for TensorRT-RTX to keep the kernels that it compiled for it."""
        if self._kernels is not None:
            self._kernels.ran()

    def close(self) -> None:
        """Give the memory of the contexts back; none of them may be used any more."""
        if self._kernels is not None:
            self._kernels.save()
            self._kernels = None
        for address, _ in self._memory.values():
            self._cuda.release(address)
        self._memory.clear()
        self._cuda.destroy_stream(self._stream)

    def _working_memory(self, profile: int) -> tuple[int, int]:
        if profile not in self._memory:
            # 1: the address of an allocation of nothing is null, which TensorRT refuses
            size = max(1, int(self._engine.get_device_memory_size_for_profile_v2(profile)))
            self._memory[profile] = (self._cuda.allocate(size), size)
        return self._memory[profile]

    def _profile_bounds(self, index: int) -> tuple[int, int, int]:
        """Return a profile's smallest and largest sequence, and its largest batch."""
        low, _, high = self._engine.get_tensor_profile_shape(self.inputs[0], index)
        return int(low[1]), int(high[1]), int(high[0])

    def _words(self) -> str:
        return " | ".join(self._errors) or "no reason given"


def is_capturable(context: Any, stream: int) -> bool:
    """Whether a context says that a stream may capture it; only TensorRT-RTX's has to be asked."""
    ask = getattr(context, "is_stream_capturable", None)
    return ask is None or bool(ask(stream))


def _make_logger(module: Any, errors: deque[str]) -> Any:
    severity = module.ILogger.Severity

    class Forward(module.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            module.ILogger.__init__(self)

        def log(self, level: Any, text: str) -> None:
            if level in (severity.INTERNAL_ERROR, severity.ERROR):
                errors.append(" ".join(text.split()))
            log.log(logging.WARNING if level == severity.WARNING else logging.DEBUG, "%s", text)

    return Forward()
