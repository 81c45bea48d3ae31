"""Choose the engine of a bundle that this machine runs, and open it."""

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from pipeline.bundle.checker import Checker
from pipeline.bundle.engines import PLAN, EngineDirectory, Parent, read_engines
from pipeline.config import NumericType
from pipeline.contracts import CUDA_GRAPH
from pipeline.engines import Encoder
from pipeline.engines.gpu import is_installed
from pipeline.errors import BundleError, MeasureError

log = logging.getLogger(__name__)

FUSED = "onnxruntime_cuda"
"""``cuda/model.onnx`` in ONNX Runtime; ``onnxruntime`` is ``model.onnx``."""

KNOWN = ("auto", "tensorrt", "tensorrt_rtx", "openvino", "onnxruntime", FUSED)


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """What is asked for.

    ``pinned``: only engines whose manifests have one of these sha256; None: any of this bundle.
    ``cache``: where engines of this bundle are built for this machine, which need no pin, and where
    TensorRT-RTX keeps the kernels that it compiles.
    """

    wanted: str = "auto"
    pinned: frozenset[str] | None = None
    cache: Path | None = None


def open_engine(parent: Parent, checker: Checker, choice: Choice) -> Encoder:
    """Return the engine named, or for ``auto`` the first that runs here, plans before the rest.

    Raises:
        BundleError: a name that is none, an engine that is not this bundle's, a file that was
            changed, or what was named cannot run here.
    """
    if choice.wanted not in KNOWN:
        raise BundleError(f"engine {choice.wanted!r}: expected one of {', '.join(KNOWN)}")
    reasons = []
    if choice.wanted in ("auto", "tensorrt", "tensorrt_rtx"):
        for engine, cached in _candidates(parent, choice):
            opened = _open_plan(engine, choice, cached=cached)
            if not isinstance(opened, str):
                return opened
            reasons.append(f"{engine.file}: {opened}")
    if choice.wanted in ("tensorrt", "tensorrt_rtx"):
        detail = "; ".join(reasons) or "the bundle holds no such engine"
        raise BundleError(
            f"engine {choice.wanted}: {detail}: build one with python -m pipeline.build "
            f"{parent.root} --runtime {choice.wanted} on the machine that serves it, or load with "
            "engine='onnxruntime'"
        )
    for reason in reasons:
        log.info("not used: %s", reason)
    return _open_model(parent, checker, choice.wanted)


def runner(engine: EngineDirectory) -> tuple[str | None, str | None]:
    """Return the module that runs an engine here, or None and why there is none."""
    from pipeline.engines.lean import plan_module

    return plan_module(
        engine.runtime,
        engine.version,
        engine.target,
        version_compatible=engine.version_compatible,
    )


def plan_fits(parent: Parent, choice: Choice) -> bool:
    """Whether there is an engine of the runtime asked for that this machine runs."""
    return any(runner(engine)[1] is None for engine, _ in _candidates(parent, choice))


def _candidates(parent: Parent, choice: Choice) -> Iterator[tuple[EngineDirectory, bool]]:
    """Yield the engines of the runtime asked for, and whether they are from the cache."""
    for place in (None, choice.cache) if choice.cache is not None else (None,):
        for engine in read_engines(parent, place):
            if choice.wanted in ("auto", engine.runtime):
                yield engine, place is not None


def _open_plan(engine: EngineDirectory, choice: Choice, *, cached: bool) -> Encoder | str:
    """Return the engine, or why it is not used.

    Raises:
        BundleError: its plan is not the one that its manifest lists.
    """
    from pipeline.engines.runtime_cache import kernels_file
    from pipeline.engines.tensorrt import TensorRTEncoder

    module, reason = runner(engine)
    if module is None:
        return reason or "it does not run here"
    if choice.pinned is not None and engine.manifest_sha256 not in choice.pinned and not cached:
        return (
            "the bundle is pinned and this engine is not: give engine_sha256="
            f"[{engine.manifest_sha256!r}] if it is meant"
        )
    checker = engine.checker
    content = checker.read(PLAN)
    kernels = None
    if choice.cache is not None:
        sha256 = engine.manifest["files"][PLAN]["sha256"]
        kernels = kernels_file(choice.cache, engine.root.name, sha256)
    try:
        encoder = TensorRTEncoder(Path(engine.file), module, plan=content, kernels=kernels)
    except MeasureError as error:
        return str(error)
    checker.recheck()
    return encoder


def _open_model(parent: Parent, checker: Checker, wanted: str) -> Encoder:
    manifest = parent.manifest
    kind = NumericType(manifest["precision_type"])
    gpu = kind not in (NumericType.int8, NumericType.fp8) and _may_use_a_gpu()
    on_gpu = _open_on_gpu(checker, wanted) if gpu else None
    if on_gpu is not None:
        return on_gpu
    if wanted == FUSED:
        raise BundleError(
            f"engine {FUSED}: ONNX Runtime has no CUDA device here, or the bundle no {CUDA_GRAPH}; "
            "load with engine='onnxruntime'"
        )
    # cpu_runtime is the faster one of CPUs only
    if wanted == "openvino" or (wanted == "auto" and manifest.get("cpu_runtime") == "openvino"):
        from pipeline.engines.openvino import OpenVINOEncoder, missing

        reason = missing()
        if reason is None:
            return _opened(checker, lambda path: OpenVINOEncoder(path, kind))
        if wanted == "openvino":
            raise BundleError(f"engine openvino: {reason}; load with engine='onnxruntime'")
        log.info("not used: openvino: %s", reason)
    return _opened(checker, partial(_onnxruntime, cuda=gpu))


def _open_on_gpu(checker: Checker, wanted: str) -> Encoder | None:
    """Open the graph that is fused for CUDA, or ``model.onnx``; None where it gets no GPU."""
    open_ = partial(_onnxruntime, cuda=True)
    fused = wanted in ("auto", FUSED) and checker.has(CUDA_GRAPH.as_posix())
    if fused:
        encoder = _opened(checker, open_, CUDA_GRAPH.as_posix())
        encoder.name = FUSED
    elif wanted == "auto":
        encoder = _opened(checker, open_)
    else:
        return None
    return encoder if encoder.device == "cuda" else None


def _may_use_a_gpu() -> bool:
    if not is_installed("onnxruntime"):
        return False
    from pipeline.engines.onnxruntime import has_cuda

    return has_cuda()


def _onnxruntime(path: Path, *, cuda: bool) -> Encoder:
    from pipeline.engines.onnxruntime import OnnxRuntimeEncoder

    return OnnxRuntimeEncoder(path, cuda=cuda)


def _opened(
    checker: Checker, open_: Callable[[Path], Encoder], name: str = "model.onnx"
) -> Encoder:
    path = checker.hold(name)
    try:
        return open_(path)
    except MeasureError as error:
        raise BundleError(str(error)) from error
