"""Who takes part: PyTorch in several arithmetics, and the bundle in every engine that runs here."""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from pipeline.bundle.engines import open_parent, read_engines
from pipeline.config import Device
from pipeline.contracts import SourceModel
from pipeline.engines import Encoder
from pipeline.engines.torch import TorchEncoder
from pipeline.errors import BundleError
from pipeline.runtime import load
from pipeline.text.tokens import TokenBatch

log = logging.getLogger(__name__)

REFERENCE = "torch_fp32"
TORCH = ("torch_tf32", "torch_fp16", "torch_bf16", "torch_compile")
ENGINES = ("onnxruntime", "onnxruntime_cuda", "tensorrt", "tensorrt_rtx")


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuSide:
    """A side that runs: its linear GEMMs' arithmetic, its shapes, its bytes of GPU memory.

    ``opened_bytes`` is what the whole GPU lost when it was opened, ``used_bytes`` what it had lost
    after the largest batch; None on a CPU.
    """

    encoder: Encoder
    kind: str
    takes: Callable[[int, int], bool] | None = None
    opened_bytes: int | None = None
    used_bytes: int | None = None


class Tf32Encoder:
    """PyTorch fp32 with TF32 GEMMs; the switch is global, so it is set around each call."""

    max_tokens: int | None = None
    bucketed = False

    def __init__(self, encoder: TorchEncoder) -> None:
        """Share the reference's weights."""
        self.name = "torch_tf32"
        self.device = encoder.device
        self._encoder = encoder

    def encode(self, batch: TokenBatch) -> npt.NDArray[np.float32]:
        """Return the embeddings of a batch, float32 ``[batch, dim]``."""
        torch.backends.cuda.matmul.allow_tf32 = True
        try:
            return self._encoder.encode(batch)
        finally:
            torch.backends.cuda.matmul.allow_tf32 = False


def open_sides(
    bundle: Path,
    manifest: Mapping[str, Any],
    source: SourceModel,
    reference: TorchEncoder,
    largest: TokenBatch,
    *,
    quick: bool,
) -> tuple[dict[str, GpuSide], dict[str, str]]:
    """Return the sides that run here, each tried on ``largest``, and why the others do not.

    The reference comes first. A side that fails is no reason to end the run.
    """
    opened = {REFERENCE: GpuSide(encoder=reference, kind="fp32")}
    reasons: dict[str, str] = {}
    for name in (*TORCH, *ENGINES):
        reason = _obstacle(name, reference.device, quick=quick)
        if reason is None:
            try:
                opened[name] = _open(name, bundle, manifest, source, reference, largest)
            except BundleError as error:
                reason = str(error)
            except Exception as error:  # torch.compile alone raises dozens of types
                first = (str(error).strip().splitlines() or [type(error).__name__])[0]
                reason = f"failed: {first[:300]}"
        if reason is not None:
            reasons[name] = reason
            log.info("%s: %s", name, reason)
    return opened, reasons


def _obstacle(name: str, device: str, *, quick: bool) -> str | None:
    if name == "torch_compile" and quick:
        return "compiling takes longer than --quick allows"
    if device == "cuda":
        if name in ("torch_tf32", "torch_bf16") and torch.cuda.get_device_capability() < (8, 0):
            return "needs compute capability 8.0"
        return None
    return {
        "torch_tf32": "no CUDA device on this machine",
        "torch_fp16": "no CUDA device on this machine: a CPU computes fp16 in fp32",
    }.get(name)


def _open(
    name: str,
    bundle: Path,
    manifest: Mapping[str, Any],
    source: SourceModel,
    reference: TorchEncoder,
    largest: TokenBatch,
) -> GpuSide:
    before = free_bytes(reference.device)
    encoder, kind = (
        _open_engine(name, bundle, manifest, reference.device)
        if name in ENGINES
        else _open_torch(name, source, reference)
    )
    opened = free_bytes(reference.device)
    takes = _in_profiles(bundle, name)
    if takes is None or takes(*largest.input_ids.shape):
        encoder.encode(largest)
    used = free_bytes(reference.device)
    known = before is not None and opened is not None and used is not None
    return GpuSide(
        encoder=encoder,
        kind=kind,
        takes=takes,
        opened_bytes=before - opened if known else None,  # type: ignore[operator]
        used_bytes=before - used if known else None,  # type: ignore[operator]
    )


def _open_torch(name: str, source: SourceModel, reference: TorchEncoder) -> tuple[Encoder, str]:
    if name == "torch_tf32":
        return Tf32Encoder(reference), "tf32"
    encoder = TorchEncoder(source, device=Device(reference.device))
    encoder.name = name
    if name == "torch_bf16":
        encoder.model.bfloat16()
        return encoder, "bf16"
    half = reference.device == "cuda"
    if half:
        encoder.model.half()
    if name == "torch_compile":
        encoder.model.compile(dynamic=True)
    return encoder, "fp16" if half else "fp32"


def _open_engine(
    name: str, bundle: Path, manifest: Mapping[str, Any], device: str
) -> tuple[Encoder, str]:
    """Open the bundle as a server does, sha256 sums checked.

    Raises:
        BundleError: the engine does not run here, or not on the reference's device.
    """
    encoder = load(bundle, name).engine
    if encoder.device != device:
        raise BundleError(f"{name} runs this bundle on the {encoder.device}, not on {device}")
    return encoder, str(manifest["precision_type"])


def _in_profiles(bundle: Path, name: str) -> Callable[[int, int], bool] | None:
    """Return whether a plan takes a batch of so many rows and tokens; None: no plan, any shape."""
    plans = [engine for engine in read_engines(open_parent(bundle)) if engine.runtime == name]
    if not plans:
        return None
    profiles = plans[0].profiles
    return lambda batch, sequence: any(
        p.min[0] <= batch <= p.max[0] and p.min[1] <= sequence <= p.max[1] for p in profiles
    )


def free_bytes(device: str) -> int | None:
    """Return the GPU's free bytes with PyTorch's cache given back, None on a CPU."""
    if device != "cuda":
        return None
    torch.cuda.synchronize()
    torch.cuda.empty_cache()
    return int(torch.cuda.mem_get_info()[0])


def measured_memory(sides: Mapping[str, GpuSide]) -> dict[str, Any]:
    """Return the bytes of GPU memory that each side took, opened and after its largest batch."""
    return {
        name: {"opened_bytes": side.opened_bytes, "used_bytes": side.used_bytes}
        if side.used_bytes is not None
        else {"skipped": "the first to be opened" if name == REFERENCE else "no CUDA device"}
        for name, side in sides.items()
    }
