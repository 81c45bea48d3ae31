"""Open what a user would run instead of the artifact here, to be timed beside it."""

import logging
from collections.abc import Sequence
from pathlib import Path

from pipeline.config import Baseline, Device, NumericType
from pipeline.contracts import SourceModel
from pipeline.engines import Encoder
from pipeline.engines.opening import open_encoder
from pipeline.engines.torch import TorchEncoder
from pipeline.errors import first_line
from pipeline.text.tokens import TokenBatch

log = logging.getLogger(__name__)

Opened = dict[Baseline, Encoder]
Reasons = dict[Baseline, str]


def open_baselines(
    wanted: Sequence[Baseline] | None,
    source: SourceModel,
    fp32: Path,
    *,
    device: str,
    trial: TokenBatch,
) -> tuple[Opened, Reasons]:
    """Return the baselines that run here, each tried on a batch, and why the others do not.

    ``wanted`` None means what fits the device: ONNX Runtime with the exported fp32 graph on a CPU,
    PyTorch fp16 on a GPU. A baseline that fails is no reason to end the run.
    """
    if wanted is None:
        wanted = [Baseline.torch_fp16 if device == "cuda" else Baseline.onnxruntime_fp32]
    opened: Opened = {}
    reasons: Reasons = {}
    for name in dict.fromkeys(wanted):
        if name is Baseline.torch_fp16 and device == "cpu":
            reasons[name] = "no CUDA device: a CPU computes fp16 in fp32"
            continue
        try:
            encoder = open_baseline(name, source, fp32, device)
            encoder.encode(trial)
        except Exception as error:  # torch.compile alone raises dozens of types
            reasons[name] = f"failed: {first_line(error)[:200]}"
            log.warning("%s: %s", name, reasons[name])
        else:
            opened[name] = encoder
    return opened, reasons


def open_baseline(name: Baseline, source: SourceModel, fp32: Path, device: str) -> Encoder:
    """Open one baseline; what its library raises goes through."""
    if name is Baseline.onnxruntime_fp32:
        return open_encoder("onnxruntime", fp32, NumericType.fp32, cuda=device == "cuda")
    encoder = TorchEncoder(source, device=Device(device))
    if name is Baseline.torch_fp16:
        encoder.model.half()
    else:
        encoder.model.compile(dynamic=True)
    return encoder
