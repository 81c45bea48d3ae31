"""What ONNX Runtime really runs, from its own profile: integer GEMMs, kernels on CUDA.

A Q/DQ pair around a GEMM promises an integer kernel; whether the runtime fuses one is seen only
when it runs (https://onnxruntime.ai/docs/performance/tune-performance/profiling-tools.html).
"""

import json
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline.engines.onnxruntime import CUDA, open_session
from pipeline.text.tokens import TokenBatch

_INTEGER = {
    "DynamicQuantizeMatMul",
    "MatMulInteger",
    "MatMulIntegerToFloat",
    "QAttention",
    "QGemm",
    "QLinearMatMul",
}
_FLOAT = {"Attention", "FusedGemm", "FusedMatMul", "Gemm", "MatMul", "MultiHeadAttention"}

_ATTENTION = {
    "flash_fwd": "flash",
    "fmha_v2": "fused",
    "fmha_cutlass": "memory_efficient",
    "attention_kernel_batched_impl": "memory_efficient",
    "softmax": "unfused",
}
"""What the names of attention's CUDA kernels hold, most telling first."""


def count_gemms(path: Path, batch: TokenBatch) -> dict[str, int]:
    """Return how many GEMM kernels of one run compute in ``integer`` and how many in ``float``.

    Attention's two batch GEMMs count too; fused into one kernel they count once.

    Raises:
        MeasureError: the file is not a graph that this ONNX Runtime runs.
    """
    kernels = Counter(event["args"]["op_name"] for event in _nodes(_profile(path, batch)))
    return {
        "integer": sum(kernels[name] for name in _INTEGER),
        "float": sum(kernels[name] for name in _FLOAT),
    }


def count_kernels(path: Path, batch: TokenBatch) -> dict[str, Any]:
    """Run a batch on CUDA and return what ran; ``read_kernels`` says what that holds.

    Raises:
        MeasureError: the file is not a graph that this ONNX Runtime runs.
    """
    return read_kernels(_profile(path, batch, cuda=True))


def read_kernels(events: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Read a profile: operators by provider, and which of its attention kernels CUDA ran.

    ``operators`` counts each operator that ran on CUDA, ``elsewhere`` those that did not: each of
    them costs a copy to the CPU and back, and rules out CUDA graphs. ``attention`` counts kernels
    by kind, and is left out where this build of ONNX Runtime does not list them.
    """
    nodes = _nodes(events)
    on_cuda = Counter(n["args"]["op_name"] for n in nodes if n["args"].get("provider") == CUDA)
    elsewhere = Counter(n["args"]["op_name"] for n in nodes if n["args"].get("provider") != CUDA)
    launched = [event["name"] for event in events if event.get("cat") == "Kernel"]
    seen: dict[str, Any] = {
        "operators": dict(sorted(on_cuda.items())),
        "elsewhere": dict(sorted(elsewhere.items())),
    }
    if launched:
        kinds = Counter(kind for name in launched if (kind := _attention_kind(name)) is not None)
        seen |= {"launched": len(launched), "attention": dict(sorted(kinds.items()))}
    return seen


def _attention_kind(kernel: str) -> str | None:
    """Return which of ONNX Runtime's attention kernels a CUDA kernel's name is of."""
    name = kernel.lower()
    return next((kind for part, kind in _ATTENTION.items() if part in name), None)


def _profile(path: Path, batch: TokenBatch, *, cuda: bool = False) -> Sequence[Mapping[str, Any]]:
    with tempfile.TemporaryDirectory() as directory:
        session = open_session(path, cuda=cuda, profile=Path(directory) / "run")
        session.run(None, batch.feed([value.name for value in session.get_inputs()]))
        events: list[Mapping[str, Any]] = json.loads(
            Path(session.end_profiling()).read_text("utf-8")
        )
    return events


def _nodes(events: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    return [
        event
        for event in events
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time")
    ]
