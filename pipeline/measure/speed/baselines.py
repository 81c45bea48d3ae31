"""Open what a user would run instead of the artifact here, to be timed beside it."""

import logging
from collections.abc import Sequence
from pathlib import Path

from pipeline.config import Baseline, Device, NumericType
from pipeline.contracts import SourceModel
from pipeline.engines import Encoder
from pipeline.engines.gpu import is_installed
from pipeline.engines.opening import open_encoder
from pipeline.engines.torch import TorchEncoder
from pipeline.engines.torch_graphs import GraphedTorch
from pipeline.errors import first_line
from pipeline.measure.speed.o4 import O4Encoder
from pipeline.text.tokens import TokenBatch

log = logging.getLogger(__name__)

_HALF = (Baseline.torch_fp16, Baseline.torch_cuda_graph, Baseline.onnx_o4)

Opened = dict[tuple[str, str], Encoder]
Reasons = dict[str, str]


def open_baselines(
    wanted: Sequence[Baseline] | None,
    source: SourceModel,
    fp32: Path,
    *,
    devices: Sequence[str],
    trial: TokenBatch,
) -> tuple[Opened, Reasons]:
    """Return the baselines that run here by name and device, and why the others do not.

    ``devices`` are those that something is timed on; each baseline is tried on a batch. ``wanted``
    None means what fits a device (``usual_baselines``). A baseline that fails is no reason to end
    the run; one that runs on another of the devices needs none.
    """
    opened: Opened = {}
    reasons: Reasons = {}
    for device in devices:
        for name in dict.fromkeys(usual_baselines(device) if wanted is None else wanted):
            reason = obstacle(name, device)
            if reason is None:
                try:
                    encoder = open_baseline(name, source, fp32, device)
                    encoder.encode(trial)
                except Exception as error:  # torch.compile alone raises dozens of types
                    reason = f"failed: {first_line(error)[:200]}"
                    log.warning("%s: %s", name, reason)
                else:
                    opened[name.value, device] = encoder
            if reason is not None:
                reasons[name.value] = reason
    there = {name for name, _ in opened}
    return opened, {name: reason for name, reason in reasons.items() if name not in there}


def usual_baselines(device: str) -> tuple[Baseline, ...]:
    """Return what a user would run on a device: the fp32 graph on a CPU, fp16 on a GPU."""
    if device == "cpu":
        return (Baseline.onnxruntime_fp32,)
    return (
        Baseline.torch_fp16,
        Baseline.torch_compile,
        Baseline.torch_cuda_graph,
        Baseline.onnx_o4,
    )


def obstacle(name: Baseline, device: str) -> str | None:
    """Return why a baseline cannot run on a device, or None where it may."""
    if device == "cpu" and name in _HALF:
        return "no CUDA device: a CPU computes fp16 in fp32"
    if name is Baseline.onnx_o4 and not is_installed("optimum"):
        return "Python package optimum is not installed (extra: optimum)"
    return None


def open_baseline(name: Baseline, source: SourceModel, fp32: Path, device: str) -> Encoder:
    """Open one baseline; what its library raises goes through."""
    if name is Baseline.onnxruntime_fp32:
        return open_encoder("onnxruntime", fp32, NumericType.fp32, cuda=device == "cuda")
    if name is Baseline.onnx_o4:
        return O4Encoder(source, device=device)
    encoder = TorchEncoder(source, device=Device(device))
    if device == "cuda":
        encoder.model.half()
    if name is Baseline.torch_compile:
        encoder.model.compile(dynamic=True)
    return GraphedTorch(encoder) if name is Baseline.torch_cuda_graph else encoder
