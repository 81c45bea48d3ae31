"""Build engines of a published bundle for this machine, and add them to it.

Needs the builder's runtime, numpy and tokenizers: no PyTorch, weights or calibration text.
"""

import contextlib
import importlib
import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from pipeline.bundle.engine_writing import write_engine
from pipeline.bundle.engines import (
    ENGINE_GRAPH,
    EngineDirectory,
    Parent,
    engine_directories,
    read_engine,
)
from pipeline.bundle.manifest import ENGINES, MANIFEST
from pipeline.bundle.place import publish_directory, staging
from pipeline.bundle.proof import read_proof
from pipeline.bundle.signing import check_key, sign_bundle
from pipeline.bundle.verification import verify_engines
from pipeline.config import EngineChoice, EngineConfig, NumericType
from pipeline.contracts import Engine, OnnxModel, Profile, TensorSpec
from pipeline.engines.fp8_gpus import fp8_target
from pipeline.engines.gpu import Gpu, find_gpu
from pipeline.engines.opening import open_encoder
from pipeline.engines.tensorrt import obstacle
from pipeline.errors import BuildError, BundleError, PublishError
from pipeline.flow.environment import describe_environment
from pipeline.flow.outcome_file import note_stage
from pipeline.runtime.check import Checked, check_engine
from pipeline.runtime.loading import text_encoder
from pipeline.stages.build import RTX_TARGET, build, plan_build
from pipeline.text.tokens import Tokenizer

log = logging.getLogger(__name__)

_NOT_TAKEN = ("runtime", "timing_cache")
"""Settings of whoever published: the second is a place on that machine."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildOrder:
    """What to build, and where to put it.

    ``settings`` go over the engine settings that the bundle was published with. ``into`` is a
    directory for engines outside the bundle. ``target`` (``sm_89``) is the GPU type to build for,
    where that is not this machine's. ``if_missing`` leaves what is there alone, and
    ``wait`` waits where another process builds into the same place.
    """

    runtime: EngineChoice = EngineChoice.auto
    settings: Mapping[str, Any]
    into: Path | None = None
    check: bool = True
    key: Path | None = None
    if_missing: bool = False
    wait: bool = False
    target: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Added:
    """An engine that is in place, and what checking it gave, or why it was not checked."""

    engine: EngineDirectory
    checked: Checked | None
    reason: str | None


class BusyError(BuildError):
    """Another process builds into the same place."""


class GateError(BuildError):
    """An engine does not give the vectors that were published; it was not put in place."""

    def __init__(self, message: str, gates: Sequence[str]) -> None:
        """Take what to tell, and which gates failed."""
        super().__init__(message)
        self.gates = tuple(gates)


def build_engines(parent: Parent, order: BuildOrder) -> list[Added]:
    """Build what this machine can, check it where it runs here, and put it in place.

    Each engine appears by one rename and takes the place of one of its name.

    Raises:
        ConfigError: settings that contradict each other or the model.
        BuildError: nothing can be built here, or not what was asked for.
        BusyError, GateError: see there.
        PublishError: it cannot be written.
    """
    if order.key is not None:
        check_key(order.key)
    config = _settings(parent, order)
    max_length = int(parent.manifest["model"]["max_length"])
    plan = plan_build(config, max_length=max_length, target=order.target)
    order = _for_fp8(parent, order)
    if not plan.runtimes:
        why = "; ".join(f"{item.runtime}: {item.reason}" for item in plan.not_built)
        raise BuildError(f"no engine can be built here: {why or 'runtime=onnxruntime'}")
    into = order.into if order.into is not None else parent.root / ENGINES
    gpu = find_gpu()
    target = order.target or ("any" if gpu is None else gpu.target)
    with _alone(into, f".build-{target}.lock", wait=order.wait):
        missing = [
            runtime
            for runtime in plan.runtimes
            if not (order.if_missing and _is_there(into, parent, runtime, order.target))
        ]
        added = [_add(runtime, parent, plan.profiles, config, order, into) for runtime in missing]
        if order.into is None and added:
            # another process may build for another GPU meanwhile
            with _alone(into, ".repository.lock", wait=True):
                write_repository(parent)
    return added


def _for_fp8(parent: Parent, order: BuildOrder) -> BuildOrder:
    """Name the GPU type of an fp8 plan for TensorRT-RTX, before anything is built."""
    if NumericType(parent.manifest["precision_type"]) is not NumericType.fp8:
        return order
    return replace(order, target=fp8_target(find_gpu(), order.target))


def write_repository(parent: Parent) -> None:
    """Write ``triton/`` anew for the engines that are there."""
    try:
        from pipeline.bundle.triton.repository import refresh_triton
    except ModuleNotFoundError as error:
        log.warning("triton/ is as it was: Python package %s is not installed", error.name)
        return
    engines, _ = verify_engines(parent)
    refresh_triton(parent, engines)


def _settings(parent: Parent, order: BuildOrder) -> EngineConfig:
    """Return the engine settings of the bundle's config, with the order's over them."""
    published = parent.manifest["config"].get("engine", {})
    values = {
        field.name: published[field.name]
        for field in fields(EngineConfig)
        if field.name in published and field.name not in _NOT_TAKEN
    }
    for key, value in values.items():
        if not _fits(key, value):
            raise BundleError(
                f"{parent.root / MANIFEST}: config.engine.{key} is {str(value)[:40]!r}, which no "
                f"engine has; publish the bundle again, or give --{key.replace('_', '-')}"
            )
    return EngineConfig(**values | dict(order.settings) | {"runtime": order.runtime})


def _fits(key: str, value: object) -> bool:
    """Whether a setting is of the type that its key has: a flag, a number, or a list of those."""
    default = getattr(EngineConfig, key)
    if default is not None:
        return type(value) is type(default)
    if key == "sequence_buckets" and isinstance(value, list):
        return all(type(size) is int for size in value)
    return value is None or (key != "sequence_buckets" and type(value) is int)


@contextlib.contextmanager
def _alone(into: Path, name: str, *, wait: bool) -> Iterator[None]:
    """Keep other processes from building the same into the same place."""
    try:
        into.mkdir(parents=True, exist_ok=True)
        lock = FileLock(into / name)
        lock.acquire(timeout=-1 if wait else 0)
    except Timeout as error:
        raise BusyError(f"another process is building into {into}") from error
    except OSError as error:
        raise PublishError(f"cannot write {into}: {error.strerror or error}") from error
    try:
        yield
    finally:
        lock.release()


def _is_there(into: Path, parent: Parent, runtime: str, target: str | None) -> bool:
    """Whether there is an engine of this runtime, in the version installed here, for this GPU."""
    version, gpu = str(importlib.import_module(runtime).__version__), find_gpu()
    for directory in engine_directories(into):
        engine = read_engine(directory, parent)
        same = (engine.runtime, engine.version) == (runtime, version)
        if same and engine.target == _target(runtime, gpu, target):
            return True
    return False


def _target(runtime: str, gpu: Gpu | None, target: str | None) -> str:
    """Return which GPUs an engine that is built here is for."""
    if target is not None:
        return target
    return RTX_TARGET if runtime == "tensorrt_rtx" or gpu is None else gpu.target


def _add(
    runtime: str,
    parent: Parent,
    profiles: Sequence[Profile],
    config: EngineConfig,
    order: BuildOrder,
    into: Path,
) -> Added:
    with staging(into) as work:
        started = time.perf_counter()
        timing_cache = Path(config.timing_cache or work / "timing_cache")
        note_stage("build")
        engine = build(
            *(_graph(parent), runtime, profiles, config, timing_cache, work / "built"),
            target=order.target,
        )
        log.info("built %s in %.1f s", engine.name, time.perf_counter() - started)
        note_stage("check")
        checked, reason = _check(engine, parent) if order.check else (None, "not asked for")
        directory = write_engine(
            work / ENGINES,
            engine,
            parent,
            measured=checked.data() if checked else {"executed": False, "reason": reason},
            settings=asdict(config),
            environment=describe_environment(),
        )
        if order.key is not None:
            sign_bundle(directory.root, order.key)
        target = into / engine.name
        publish_directory(directory.root, target)
    log.info("%s: sha256 %s", target / MANIFEST, directory.manifest_sha256)
    return Added(engine=replace(directory, root=target), checked=checked, reason=reason)


def _graph(parent: Parent) -> OnnxModel:
    """Return the engines' graph, its bytes checked."""
    sha256 = parent.graph_sha256
    if sha256 is None:
        raise BundleError(f"{parent.root}: no {ENGINE_GRAPH} in it; publish the bundle again")
    inputs, outputs = (
        tuple(
            TensorSpec(name=spec["name"], dtype=spec["dtype"], shape=(*spec["shape"],))
            for spec in parent.manifest["graph"][key]
        )
        for key in ("inputs", "outputs")
    )
    return OnnxModel(
        path=parent.checker.graph(ENGINE_GRAPH),
        sha256=sha256,
        precision=NumericType(parent.manifest["precision_type"]),
        inputs=inputs,
        outputs=outputs,
        source_sha256=sha256,
    )


def _check(engine: Engine, parent: Parent) -> tuple[Checked | None, str | None]:
    """Hold a plan to the bundle's proof where it runs here; else say why it does not."""
    reason = obstacle(engine.runtime, engine.runtime_version, engine.target)
    if reason is None and parent.manifest["check"] is None:
        reason = "the bundle holds no check texts"
    if reason is not None:
        return None, reason
    tokenizer = Tokenizer(parent.root, max_length=int(parent.manifest["model"]["max_length"]))
    opened = open_encoder(engine.runtime, engine.path, NumericType.fp32)
    proof = read_proof(parent.checker, parent.manifest)
    checked = check_engine(text_encoder(parent, tokenizer, opened), proof)
    if checked.failed:
        raise GateError(
            f"{engine.name} does not give the vectors that were published: "
            f"{', '.join(checked.failed)} over {checked.n} check texts, worst "
            f"{checked.worst[:60]!r}; it was not put in place",
            checked.failed,
        )
    return checked, None
