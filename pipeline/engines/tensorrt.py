"""Run plans of TensorRT and TensorRT-RTX: one file drives both, whose modules share an API.

PyTorch supplies device memory and the stream. Deserializing a plan runs code from it: callers
check the file's sha256 against the manifest first.
"""

import importlib
import logging
import threading
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from pipeline.contracts import GRAPH_OUTPUT
from pipeline.engines.gpu import Gpu, find_gpu, is_installed
from pipeline.errors import MeasureError
from pipeline.text.tokens import TokenBatch

if TYPE_CHECKING:
    import tensorrt as trt
    import torch

log = logging.getLogger(__name__)

_RTX_CAPABILITIES = ((8, 0), (8, 6), (8, 9))
_RTX_LATER = 12

_LABELS = {"tensorrt": "TensorRT", "tensorrt_rtx": "TensorRT-RTX"}


def obstacle(runtime: str, runtime_version: str, target: str) -> str | None:
    """Return why a plan cannot run here, or None where it can."""
    gpu = find_gpu()
    if gpu is None:
        return "no CUDA device on this machine"
    if not is_installed(runtime):
        return f"Python package {runtime.replace('_', '-')} is not installed"
    if runtime == "tensorrt_rtx" and (reason := rtx_obstacle(gpu)) is not None:
        return reason
    installed = str(importlib.import_module(runtime).__version__)
    other_gpu = runtime != "tensorrt_rtx" and target != gpu.target
    if installed != runtime_version or other_gpu:
        label = _LABELS[runtime]
        return (
            f"built for {target} with {label} {runtime_version}, this is {gpu.target} "
            f"({gpu.name}) with {label} {installed}"
        )
    return None


def rtx_obstacle(gpu: Gpu) -> str | None:
    """Return why this GPU runs no TensorRT-RTX plan of ours, or None where it does.

    Plans are built for TensorRT-RTX's default targets, Turing not among them; Hopper and the data
    center Blackwells are on none of its support matrices (1.0 to 1.5 were read), nor among the
    targets that 1.7.1 offers
    (https://docs.nvidia.com/deeplearning/tensorrt-rtx/latest/inference-library/cpu-engines.html).
    """
    major, minor = gpu.compute_capability
    if gpu.compute_capability in _RTX_CAPABILITIES or major >= _RTX_LATER:
        return None
    return (
        "TensorRT-RTX plans run on compute capability 8.0, 8.6, 8.9, 12.0 and later, "
        f"{gpu.name} has {major}.{minor}: use engine=tensorrt"
    )


class TensorRTEncoder:
    """A deserialized plan, with one execution context per optimization profile in use."""

    max_tokens: int | None = None
    bucketed = False

    def __init__(self, path: Path, runtime: str, *, plan: bytes | None = None) -> None:
        """Deserialize the plan for the current CUDA device.

        ``plan`` are the bytes of ``path`` where they are read already, and were checked.

        Raises:
            MeasureError: TensorRT refuses the plan; its own words are in the message.
        """
        import torch

        self.name = runtime
        self.device = "cuda"
        self._torch = torch
        self._module = importlib.import_module(runtime)
        self._errors: deque[str] = deque(maxlen=3)
        self._logger = _make_logger(self._module, self._errors)
        self._runtime: trt.Runtime = self._module.Runtime(self._logger)
        engine = self._runtime.deserialize_cuda_engine(path.read_bytes() if plan is None else plan)
        if engine is None:
            raise MeasureError(f"{runtime} cannot load {path}: {self._words()}")
        self._engine: trt.ICudaEngine = engine
        names = [engine.get_tensor_name(i) for i in range(engine.num_io_tensors)]
        mode = self._module.TensorIOMode.INPUT
        self.inputs = [name for name in names if engine.get_tensor_mode(name) == mode]
        self.bounds = [self._profile_bounds(i) for i in range(engine.num_optimization_profiles)]
        self.dimension = int(engine.get_tensor_shape(GRAPH_OUTPUT)[1])
        self._contexts: dict[int, trt.IExecutionContext] = {}
        self._stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        self._lock = threading.Lock()

    def encode(self, batch: TokenBatch) -> npt.NDArray[np.float32]:
        """Return the embeddings of a batch, float32 ``[batch, dim]``, in chunks a profile takes.

        Raises:
            MeasureError: no profile takes this sequence length, or the enqueue failed.
        """
        rows, length = batch.input_ids.shape
        most = self.bounds[self._pick_profile(length)][2]
        with self._lock:
            parts = [
                self._run(batch, start, min(start + most, rows)) for start in range(0, rows, most)
            ]
        return np.concatenate(parts)

    def bind(
        self, inputs: Mapping[str, "torch.Tensor"], output: "torch.Tensor"
    ) -> "trt.IExecutionContext":
        """Point the context of the fitting profile at device tensors, ready to be enqueued.

        Inputs are int64 ``[batch, sequence]``, ``output`` float32 ``[batch, dim]``, all contiguous
        and on this device; they must live until the work on them is done. The context is the one
        that ``encode`` uses for such lengths: not both at a time.

        Raises:
            MeasureError: no profile takes this shape, or TensorRT refuses an address.
        """
        shape = tuple(inputs[self.inputs[0]].shape)
        context = self._context(self._pick_profile(shape[1]))
        for name in self.inputs:
            if not context.set_input_shape(name, shape):
                raise MeasureError(f"{self.name}: shape {shape} of {name}: {self._words()}")
        tensors = {**{name: inputs[name] for name in self.inputs}, GRAPH_OUTPUT: output}
        for name, tensor in tensors.items():
            if not context.set_tensor_address(name, tensor.data_ptr()):
                raise MeasureError(f"{self.name}: address of {name}: {self._words()}")
        return context

    def _run(self, batch: TokenBatch, start: int, stop: int) -> npt.NDArray[np.float32]:
        torch = self._torch
        with torch.cuda.stream(self._stream):
            inputs = {
                name: torch.from_numpy(np.ascontiguousarray(array[start:stop])).to(
                    "cuda", non_blocking=True
                )
                for name, array in batch.feed(self.inputs).items()
            }
            output = torch.empty((stop - start, self.dimension), device="cuda")
            context = self.bind(inputs, output)
            if not context.execute_async_v3(self._stream.cuda_stream):
                raise MeasureError(f"{self.name} could not run a batch: {self._words()}")
            result: npt.NDArray[np.float32] = output.cpu().numpy()  # waits for the stream
        return result

    def _context(self, index: int) -> "trt.IExecutionContext":
        if index not in self._contexts:
            # Its own profile's memory: the default is the largest of all profiles, each time.
            strategy = self._module.ExecutionContextAllocationStrategy.ON_PROFILE_CHANGE
            context = self._engine.create_execution_context(strategy)
            if context is None:
                raise MeasureError(f"{self.name} gives no execution context: {self._words()}")
            if not context.set_optimization_profile_async(index, self._stream.cuda_stream):
                raise MeasureError(f"{self.name} refuses profile {index}: {self._words()}")
            self._stream.synchronize()  # whoever enqueues may do so on another stream
            self._contexts[index] = context
        return self._contexts[index]

    def _profile_bounds(self, index: int) -> tuple[int, int, int]:
        """Return a profile's smallest and largest sequence, and its largest batch."""
        low, _, high = self._engine.get_tensor_profile_shape(self.inputs[0], index)
        return int(low[1]), int(high[1]), int(high[0])

    def _pick_profile(self, length: int) -> int:
        for index, (low, high, _) in enumerate(self.bounds):
            if low <= length <= high:
                return index
        raise MeasureError(f"{self.name}: no optimization profile takes {length} tokens")

    def _words(self) -> str:
        return " | ".join(self._errors) or "no reason given"


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
