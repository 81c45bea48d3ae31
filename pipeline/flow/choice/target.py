"""Say what a precision is chosen for: this machine, or a GPU that is known by its data sheet."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from pipeline.config import Device, EngineChoice, NumericType, PipelineConfig
from pipeline.engines.fp8_gpus import LEAST as LEAST_FP8
from pipeline.engines.gpu import Gpu, is_installed
from pipeline.engines.layers.predict import GpuPeaks, known_gpus
from pipeline.errors import BuildError, ConfigError

CPU = "cpu"
LEAST_BF16 = (8, 0)
"""Ampere's compute capability ("CUDA Programming Guide", compute capabilities)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """What candidates are compared on.

    ``device`` is where an artifact must have run to be measured on it, ``cpu`` or ``cuda``; None is
    a GPU that this machine has not, and ``peaks`` predict. ``lacks`` says of numeric types why
    there is no hardware for them.
    """

    label: str
    device: str | None
    peaks: GpuPeaks | None
    lacks: Mapping[NumericType, str]


def find_target(config: PipelineConfig, gpu: Gpu | None) -> Target:
    """Return what ``target`` names; null is this machine's GPU, or its CPU where it has none.

    Raises:
        ConfigError: no target of that name is known, or the reference is to run elsewhere.
        BuildError: no engine can be built here to predict its time from.
    """
    name, gpus = config.target, known_gpus()
    if name is None and (gpu is None or config.validate.device is Device.cpu):
        name = CPU
    if name == CPU:
        if config.validate.device is Device.cuda:
            raise ConfigError(
                "target=cpu is timed beside PyTorch on the CPU: leave validate.device=cuda out"
            )
        return Target(label="this machine's CPU", device="cpu", peaks=None, lacks=_of_cpu(config))
    if name is None:
        assert gpu is not None
        return Target(label=gpu.name, device="cuda", peaks=None, lacks=_of_gpu(gpu))
    if name not in gpus:
        raise ConfigError(
            f"target={name}: no such target; choose one of {CPU}, {', '.join(gpus)}, or leave it "
            "out for this machine"
        )
    peaks = gpus[name]
    if gpu is not None and is_label(peaks.label, gpu.name):
        return Target(label=gpu.name, device="cuda", peaks=None, lacks=_of_gpu(gpu))
    _check_engine(config, name, gpu)
    lacks = {
        kind: f"{peaks.label} has no {kind} hardware"
        for kind in NumericType
        if kind.value not in peaks.tera_operations
    }
    return Target(label=peaks.label, device=None, peaks=peaks, lacks=lacks)


def is_label(label: str, name: str) -> bool:
    """Whether a GPU's name has every word of a data sheet's: ``L4`` is no ``NVIDIA L40S``."""
    return set(re.findall(r"\w+", label.lower())) <= set(re.findall(r"\w+", name.lower()))


def _of_cpu(config: PipelineConfig) -> dict[NumericType, str]:
    lacks = {NumericType.fp8: "no CPU computes in fp8"}
    without = _without_openvino(config)
    if without is not None:
        lacks[NumericType.bf16] = f"ONNX Runtime only emulates bf16 on a CPU, and {without}"
    return lacks


def _without_openvino(config: PipelineConfig) -> str | None:
    if config.engine.runtime is not EngineChoice.auto:
        return f"engine={config.engine.runtime} leaves OpenVINO out"
    return None if is_installed("openvino") else "OpenVINO is not installed (extra: openvino)"


def _of_gpu(gpu: Gpu) -> dict[NumericType, str]:
    capability = ".".join(map(str, gpu.compute_capability))
    least = {NumericType.bf16: LEAST_BF16, NumericType.fp8: LEAST_FP8}
    return {
        kind: f"{gpu.name} (compute capability {capability}) has no {kind} hardware"
        for kind, needed in least.items()
        if gpu.compute_capability < needed
    }


def _check_engine(config: PipelineConfig, name: str, gpu: Gpu | None) -> None:
    """Refuse a GPU whose times nothing here could be predicted from."""
    if config.engine.runtime is EngineChoice.onnxruntime:
        raise ConfigError(
            f"target={name}: its times are predicted from an engine's kernels, and "
            "engine=onnxruntime builds no engine; set engine=auto"
        )
    if gpu is None and not is_installed("tensorrt_rtx"):
        raise BuildError(
            f"target={name}: its times are predicted from an engine's kernels, and none can be "
            "built here: Python package tensorrt-rtx is not installed (extra: rtx)"
        )
