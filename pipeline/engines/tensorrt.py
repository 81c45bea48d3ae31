"""Run plans of TensorRT and TensorRT-RTX: one file drives both, whose modules share an API.

Device memory and streams are ``cuda-bindings``'; no PyTorch. Deserializing a plan runs code from
it: callers check the file's sha256 against the manifest first.
"""

import importlib
import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from pipeline.engines.bound_plan import BoundPlan
from pipeline.engines.cuda import Cuda, missing
from pipeline.engines.gpu import Gpu, find_gpu, is_installed
from pipeline.engines.plan import Plan
from pipeline.engines.slots import SLOTS
from pipeline.errors import MeasureError
from pipeline.text.tokens import TokenBatch

if TYPE_CHECKING:
    import tensorrt as trt

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
    other_gpu = target.startswith("sm_") and target != gpu.target
    if installed != runtime_version or other_gpu:
        label = _LABELS[runtime]
        return (
            f"built for {target} with {label} {runtime_version}, this is {gpu.target} "
            f"({gpu.name}) with {label} {installed}"
        )
    return missing()


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
    """A deserialized plan; small batches that come again are CUDA graphs (``engines.bound_plan``).

    Threads may call it at once.
    """

    bucketed = True
    lanes = SLOTS

    def __init__(
        self, path: Path, runtime: str, *, plan: bytes | None = None, kernels: Path | None = None
    ) -> None:
        """Deserialize the plan for the current CUDA device.

        ``plan`` are the bytes of ``path`` where they are read already, and were checked.
        ``kernels`` is the file in which TensorRT-RTX keeps what it compiles for this device.

        Raises:
            MeasureError: TensorRT refuses the plan, CUDA has no room, or ``cuda-bindings`` is not
                installed; their own words are in the message.
        """
        self.name = runtime
        self.device = "cuda"
        cuda = Cuda()
        content = path.read_bytes() if plan is None else plan
        self._plan = Plan(content, runtime, cuda, str(path), kernels=kernels)
        try:
            self._bound = BoundPlan(self._plan, cuda)
        except MeasureError:
            self._plan.close()
            raise
        self.inputs = self._plan.inputs
        self.bounds = self._plan.bounds
        self.dimension = self._plan.dimension
        self.max_tokens: int | None = self._bound.tokens
        # When a process ends, the driver gives everything back itself.
        weakref.finalize(self, self._bound.close).atexit = False

    @property
    def graphs(self) -> int:
        """How many shapes have a CUDA graph."""
        return self._bound.graphs

    def encode(self, batch: TokenBatch) -> npt.NDArray[np.float32]:
        """Return the embeddings of a batch, float32 ``[batch, dim]``, in parts a profile takes.

        Raises:
            MeasureError: no profile takes this sequence length, or the run failed.
        """
        return self._bound.encode(batch)

    def encode_beside(self, batch: TokenBatch) -> npt.NDArray[np.float32]:
        """Encode as ``encode`` does: one batch is copied while another is computed."""
        return self._bound.encode(batch)

    def bind(self, shape: tuple[int, int], addresses: Mapping[str, int]) -> "trt.IExecutionContext":
        """Return a context of its own that is pointed at device memory, ready to be enqueued.

        By ``addresses``, inputs are int64 ``[batch, sequence]`` and the output is float32
        ``[batch, dim]``; they must live until the work on them is done. The context works in the
        memory that ``encode`` uses: not both at a time.

        Raises:
            MeasureError: no profile takes this shape, or TensorRT refuses an address.
        """
        context = self._plan.make_context(self._plan.pick_profile(shape[1]))
        self._plan.bind(context, shape, addresses)
        return context
