"""Build TensorRT and TensorRT-RTX plans from a graph, where they can be built."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata
from itertools import pairwise
from pathlib import Path

from pipeline.config import EngineChoice, EngineConfig, NumericType
from pipeline.contracts import Engine, NotBuilt, OnnxModel, Profile, sha256_file
from pipeline.engines.build_messages import BuildRequest
from pipeline.engines.builder import run_build
from pipeline.engines.fp8_gpus import fp8_target
from pipeline.engines.gpu import Gpu, find_gpu, is_installed
from pipeline.engines.tensorrt import rtx_obstacle
from pipeline.errors import BuildError, ConfigError

log = logging.getLogger(__name__)

DEFAULT_BUCKETS = (32, 128)
"""Most sentences fit in 32 tokens, most paragraphs in 128; the model's max length comes last."""

RTX_TARGET = "ampere_plus"
"""What TensorRT-RTX builds for when no compute capability is named: 8.0, 8.6, 8.9, 12.0 and later
(TensorRT-RTX documentation, "CPU-Only AOT and TensorRT-RTX Engines")."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildPlan:
    """What will be built and what will not, decided before anything slow runs."""

    runtimes: tuple[str, ...]
    not_built: tuple[NotBuilt, ...]
    profiles: tuple[Profile, ...]


def plan_build(config: EngineConfig, *, max_length: int, target: str | None = None) -> BuildPlan:
    """Choose runtimes and optimization profiles for this machine and model.

    ``target`` (``sm_89``) is the GPU type to build for; None is that of this machine.

    Raises:
        ConfigError: profiles that contradict each other or the model's max length.
        BuildError: a runtime asked for by name cannot build here.
    """
    for name, low, high in (
        ("workspace_mib", 1, 1 << 24),
        ("optimization_level", 0, 5),
        ("timeout_s", 1, 7 * 24 * 3600),
    ):
        value = getattr(config, name)
        if value is not None and not low <= value <= high:
            raise ConfigError(f"engine.{name}={value}: expected {low} to {high}")
    profiles = make_profiles(config, max_length=max_length)
    if config.runtime is EngineChoice.onnxruntime:
        return BuildPlan(runtimes=(), not_built=(), profiles=profiles)
    gpu = find_gpu()
    obstacles = {
        "tensorrt": _missing("tensorrt") or _no_gpu(gpu, target),
        "tensorrt_rtx": _missing("tensorrt_rtx")
        or (rtx_obstacle(gpu) if gpu and target is None else None),
    }
    if config.runtime is not EngineChoice.auto:
        name = config.runtime.value
        if obstacles[name] is not None:
            raise BuildError(
                f"engine={name}: {obstacles[name]}; set engine=auto to build what can be built here"
            )
        return BuildPlan(runtimes=(name,), not_built=(), profiles=profiles)
    not_built = tuple(
        NotBuilt(runtime=name, reason=reason) for name, reason in obstacles.items() if reason
    )
    for item in not_built:
        log.info("%s: not built: %s", item.runtime, item.reason)
    return BuildPlan(
        runtimes=tuple(name for name, reason in obstacles.items() if reason is None),
        not_built=not_built,
        profiles=profiles,
    )


def _no_gpu(gpu: Gpu | None, target: str | None) -> str | None:
    if gpu is None:
        return "no CUDA device on this machine"
    if target is not None and gpu.target != target:
        return f"builds for the GPU that it is on: {gpu.target} ({gpu.name}), not {target}"
    return None


def _missing(module: str) -> str | None:
    if is_installed(module):
        return None
    extra = "rtx" if module == "tensorrt_rtx" else "tensorrt"
    return f"Python package {module.replace('_', '-')} is not installed (extra: {extra})"


def make_profiles(config: EngineConfig, *, max_length: int) -> tuple[Profile, ...]:
    """Return one profile per sequence bucket; together they cover 1 to ``max_length`` tokens.

    Kernels are chosen at a profile's opt shape: its largest sequence, the shape most batches of a
    length-sorted encoder are close to.

    Raises:
        ConfigError: see the messages.
    """
    buckets = config.sequence_buckets
    if buckets is None:
        buckets = [*(b for b in DEFAULT_BUCKETS if b < max_length), max_length]
    shown = f"engine.sequence_buckets={buckets}"
    if not buckets or buckets[0] < 1 or any(b >= c for b, c in pairwise(buckets)):
        raise ConfigError(
            f"{shown}: expected increasing token counts, for example [32,{max_length}]"
        )
    if buckets[-1] > max_length:
        raise ConfigError(
            f"{shown}: {buckets[-1]} is beyond the model's max length of {max_length} tokens; "
            f"end with {max_length}"
        )
    if buckets[-1] < max_length:
        raise ConfigError(
            f"{shown}: texts of {buckets[-1] + 1} to {max_length} tokens would have no profile; "
            f"add {max_length}, or truncate with model.max_length={buckets[-1]}"
        )
    if not 1 <= config.opt_batch <= config.max_batch:
        raise ConfigError(
            f"engine.opt_batch={config.opt_batch}, engine.max_batch={config.max_batch}: "
            "expected 1 <= opt_batch <= max_batch"
        )
    lows = [1, *(b + 1 for b in buckets[:-1])]
    return tuple(
        Profile(min=(1, low), opt=(config.opt_batch, high), max=(config.max_batch, high))
        for low, high in zip(lows, buckets, strict=True)
    )


def build(
    model: OnnxModel,
    runtime: str,
    profiles: Sequence[Profile],
    config: EngineConfig,
    timing_cache_dir: Path,
    out_dir: Path,
    *,
    target: str | None = None,
) -> Engine:
    """Build one plan in a child process and return it with what was read back.

    ``target`` (``sm_89``) narrows TensorRT-RTX to one GPU type, as fp8 always does; TensorRT has no
    choice.

    Raises:
        BuildError: as ``pipeline.engines.builder.run_build``, or the plan's I/O is not the graph's.
    """
    out_dir.mkdir(parents=True, exist_ok=True)
    gpu = find_gpu()
    if model.precision is NumericType.fp8:
        target = fp8_target(gpu, target)
    capability = None
    if runtime == "tensorrt_rtx" and target is not None:
        capability = target.removeprefix("sm_")
    elif runtime == "tensorrt_rtx" or gpu is None:
        target = RTX_TARGET
    else:
        target = gpu.target
    plan = out_dir / f"{runtime}-{target}.plan"
    cache = None
    if runtime == "tensorrt" and gpu is not None:
        cache = _timing_cache(gpu, timing_cache_dir)
    layers = plan.with_suffix(".layers.json")
    version_compatible = config.version_compatible and runtime == "tensorrt"
    request = BuildRequest(
        runtime=runtime,
        model=model.path,
        plan=plan,
        profiles=tuple(profiles),
        workspace_mib=config.workspace_mib,
        optimization_level=config.optimization_level,
        timing_cache=cache,
        compute_capability=capability,
        layers=layers,
        version_compatible=version_compatible,
    )
    result = run_build(request, timeout_s=config.timeout_s)
    if result.layers_missing is not None:
        log.warning("%s: what the plan runs is not known: %s", runtime, result.layers_missing)
    expected = {spec.name for spec in (*model.inputs, *model.outputs)}
    built = {spec.name for spec in (*result.inputs, *result.outputs)}
    if built != expected:
        raise BuildError(
            f"{runtime}: the engine's tensors are {sorted(built)}, expected {sorted(expected)}"
        )
    return Engine(
        path=plan,
        sha256=sha256_file(plan),
        runtime=runtime,
        runtime_version=result.runtime_version,
        target=target,
        profiles=tuple(profiles),
        inputs=result.inputs,
        outputs=result.outputs,
        layer_types=result.layer_types,
        source_sha256=model.sha256,
        layers=layers if result.layers_missing is None else None,
        version_compatible=version_compatible,
    )


def _timing_cache(gpu: Gpu, directory: Path) -> Path:
    """Return the cache file for this GPU, driver and TensorRT version: it is valid for no other."""
    directory.mkdir(parents=True, exist_ok=True)
    version = metadata.version("tensorrt")
    name = gpu.name.replace(" ", "_").replace("/", "_")
    return directory / f"{name}-{gpu.target}-{gpu.driver or 'unknown'}-trt{version}.cache"
