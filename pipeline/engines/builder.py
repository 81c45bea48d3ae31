"""The native build, in a process of its own.

TensorRT is native code: it can crash or run out of memory, and then only this process ends.
Polygraphy drives ``tensorrt`` and ``tensorrt_rtx`` alike; which one it takes is an environment
variable it reads when imported, one more reason for a process per build.

The parent calls ``run_build``; ``_child`` is the other side of the pipe.
"""

import importlib
import io
import logging
import multiprocessing
import os
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.progress import Progress, TaskID

from pipeline.contracts import Profile, TensorSpec
from pipeline.errors import BuildError
from pipeline.progress import console

if TYPE_CHECKING:
    import tensorrt as trt

log = logging.getLogger(__name__)

_BENIGN = ("has Int64 binding",)
"""TensorRT warns of every int64 input; the graph contract asks for them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildRequest:
    """Everything the child needs."""

    runtime: str
    model: Path
    plan: Path
    profiles: tuple[Profile, ...]
    workspace_mib: int
    optimization_level: int | None
    timing_cache: Path | None


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildResult:
    """What the child read back from the parsed network."""

    runtime_version: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    layer_types: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class _Log:
    level: int
    text: str


@dataclass(frozen=True, slots=True)
class _Phase:
    """A builder phase: started with ``steps``, advanced to ``done``, or finished (``steps`` 0)."""

    name: str
    steps: int = 0
    done: int | None = None


@dataclass(frozen=True, slots=True)
class _Failure:
    text: str


def run_build(
    request: BuildRequest, *, timeout_s: int, child: "Callable[..., None] | None" = None
) -> BuildResult:
    """Build in a child process, show its progress, and return what it read back.

    Raises:
        BuildError: TensorRT refused (its own words), the process died, or the time is over.
    """
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=child or _child, args=(sender, request), daemon=True)
    process.start()
    sender.close()
    try:
        outcome = _listen(receiver, deadline=time.monotonic() + timeout_s)
        if isinstance(outcome, BuildResult):
            process.join()
            return outcome
    finally:
        if process.is_alive():
            process.kill()
        process.join()
    if isinstance(outcome, _Failure):
        raise BuildError(
            f"{request.runtime} cannot build {request.model.name}: {outcome.text}; "
            "set engine=onnxruntime to publish without an engine"
        )
    if outcome is TimeoutError:
        raise BuildError(
            f"{request.runtime} was still building {request.model.name} after {timeout_s} s; "
            "raise engine.timeout_s or set engine=onnxruntime"
        )
    raise BuildError(
        f"{request.runtime} ended while building {request.model.name}: {_died(process.exitcode)}; "
        "lower engine.workspace_mib or engine.max_batch, or set engine=onnxruntime"
    )


def _died(exitcode: int | None) -> str:
    if exitcode is not None and exitcode < 0:
        return f"killed by {signal.Signals(-exitcode).name}"
    return f"exit code {exitcode}"


def _listen(receiver: Connection, *, deadline: float) -> object:
    """Forward logs and progress until a result, a failure, the end of the pipe or the deadline."""
    tasks: dict[str, TaskID] = {}
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        while True:
            if not receiver.poll(max(0.0, deadline - time.monotonic())):
                return TimeoutError
            try:
                message = receiver.recv()
            except EOFError:
                return None
            match message:
                case _Log(level, text):
                    log.log(level, "%s", text)
                case _Phase(name, done=None) if name in tasks:
                    progress.remove_task(tasks.pop(name))
                case _Phase(name, steps, done=None) if steps:
                    tasks[name] = progress.add_task(f"  {name}", total=steps)
                case _Phase(name, done=int(done)) if name in tasks:
                    progress.update(tasks[name], completed=done)
                case BuildResult() | _Failure():
                    return message


def _child(sender: Connection, request: BuildRequest) -> None:
    """Parse, build, write the plan, and send what was read back."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    sys.stdout = sys.stderr = io.StringIO()  # polygraphy prints hints, and errors twice
    os.environ["POLYGRAPHY_USE_TENSORRT_RTX"] = "1" if request.runtime == "tensorrt_rtx" else "0"
    errors: list[str] = []
    _forward_logs(sender, errors)
    try:
        result = _build(sender, request)
    except Exception as error:  # whatever the native bindings raise becomes one line
        words = " | ".join(dict.fromkeys(errors)) or f"{type(error).__name__}: {error}"
        sender.send(_Failure(" ".join(words.split())[:1500]))
    else:
        sender.send(result)
    sender.close()


def _forward_logs(sender: Connection, errors: list[str]) -> None:
    from polygraphy.logger import G_LOGGER

    class Forward(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            text = record.getMessage().strip()
            if record.levelno >= logging.ERROR:
                errors.append(text)
            quiet = record.levelno < logging.WARNING or any(b in text for b in _BENIGN)
            sender.send(_Log(logging.DEBUG if quiet else min(record.levelno, 30), text))

    logger = logging.getLogger("Polygraphy")
    logger.handlers[:] = [Forward()]
    logger.propagate = False
    logger.setLevel(logging.DEBUG)
    G_LOGGER.use_python_logging_system = True


def _build(sender: Connection, request: BuildRequest) -> BuildResult:
    module = importlib.import_module(request.runtime)
    from polygraphy.backend.trt import Profile as ShapeProfile
    from polygraphy.backend.trt import engine_bytes_from_network, network_from_onnx_path

    builder: trt.Builder
    network: trt.INetworkDefinition
    builder, network, _ = network_from_onnx_path(str(request.model), strongly_typed=True)
    profiles = []
    for p in request.profiles:
        shapes = ShapeProfile()
        for i in range(network.num_inputs):
            shapes.add(network.get_input(i).name, min=p.min, opt=p.opt, max=p.max)
        profiles.append(shapes)
    config = _builder_config(module, builder, network, profiles, sender, request)
    cache = str(request.timing_cache) if request.timing_cache is not None else None
    plan = engine_bytes_from_network((builder, network), config, save_timing_cache=cache)
    with request.plan.open("wb") as stream:
        stream.write(plan)
    return BuildResult(
        runtime_version=str(module.__version__),
        inputs=tuple(_spec(network.get_input(i)) for i in range(network.num_inputs)),
        outputs=tuple(_spec(network.get_output(i)) for i in range(network.num_outputs)),
        layer_types=_layer_types(network),
    )


def _builder_config(
    module: Any,
    builder: "trt.Builder",
    network: "trt.INetworkDefinition",
    profiles: Any,
    sender: Connection,
    request: BuildRequest,
) -> "trt.IBuilderConfig":
    """Make the builder config: no precision flags (they are gone in TensorRT 11), TF32 off."""
    settings: dict[str, Any] = {
        "profiles": profiles,
        "memory_pool_limits": {module.MemoryPoolType.WORKSPACE: request.workspace_mib << 20},
        "builder_optimization_level": request.optimization_level,
        "progress_monitor": _monitor(module, sender),
        "profiling_verbosity": module.ProfilingVerbosity.DETAILED,
    }
    if request.runtime == "tensorrt_rtx":
        from polygraphy.backend.tensorrt_rtx import CreateConfigRTX

        config: trt.IBuilderConfig = CreateConfigRTX(**settings)(builder, network)
    else:
        from polygraphy.backend.trt import CreateConfig

        cache = request.timing_cache
        found = str(cache) if cache is not None and cache.is_file() else None
        config = CreateConfig(**settings, load_timing_cache=found)(builder, network)
    config.clear_flag(module.BuilderFlag.TF32)
    return config


def _monitor(module: Any, sender: Connection) -> "trt.IProgressMonitor":
    class Monitor(module.IProgressMonitor):  # type: ignore[misc]
        def __init__(self) -> None:
            module.IProgressMonitor.__init__(self)

        def phase_start(self, phase_name: str, _parent: str | None, num_steps: int) -> None:
            sender.send(_Phase(phase_name, steps=max(num_steps, 1)))

        def step_complete(self, phase_name: str, step: int) -> bool:
            sender.send(_Phase(phase_name, done=step + 1))
            return True

        def phase_finish(self, phase_name: str) -> None:
            sender.send(_Phase(phase_name))

    monitor: trt.IProgressMonitor = Monitor()
    return monitor


def _spec(tensor: "trt.ITensor") -> TensorSpec:
    names = ("batch", "sequence")
    sizes = [int(tensor.shape[i]) for i in range(len(tensor.shape))]
    shape = tuple(size if size >= 0 else names[i] for i, size in enumerate(sizes))
    return TensorSpec(name=tensor.name, dtype=tensor.dtype.name.lower(), shape=shape)


def _layer_types(network: "trt.INetworkDefinition") -> dict[str, int]:
    counts: Counter[str] = Counter()
    for i in range(network.num_layers):
        layer = network.get_layer(i)
        if layer.num_outputs and layer.get_output(0) is not None:
            counts[layer.get_output(0).dtype.name.lower()] += 1
    return dict(counts.most_common())
