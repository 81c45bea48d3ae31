"""Build in a process of its own: parse, build, list the kernels, and tell the parent.

The parent is ``pipeline.engines.builder``.
"""

import importlib
import io
import logging
import os
import signal
import sys
from collections import Counter
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING, Any

from pipeline.contracts import TensorSpec
from pipeline.ending import die_with_parent
from pipeline.engines.build_messages import BuildRequest, BuildResult, Failure, Log, Phase
from pipeline.engines.layers.inspector import parse_inspector
from pipeline.engines.layers.rtx_log import HEAD, parse_rtx_layers

if TYPE_CHECKING:
    import tensorrt as trt

_BENIGN = ("has Int64 binding",)
"""TensorRT warns of every int64 input; the graph contract asks for them."""


def build_here(sender: Connection, request: BuildRequest) -> None:
    """Parse, build, write the plan, and send what was read back."""
    die_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the group; the parent ends us
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    sys.stdout = sys.stderr = io.StringIO()  # polygraphy prints hints, and errors twice
    os.environ["POLYGRAPHY_USE_TENSORRT_RTX"] = "1" if request.runtime == "tensorrt_rtx" else "0"
    errors: list[str] = []
    _forward_logs(sender, errors)
    try:
        result = _build(sender, request, errors)
    except Exception as error:  # whatever the native bindings raise becomes one line
        words = " | ".join(dict.fromkeys(errors)) or f"{type(error).__name__}: {error}"
        sender.send(Failure(" ".join(words.split())[:1500]))
    else:
        sender.send(result)
    sender.close()


def _forward_logs(sender: Connection, errors: list[str]) -> None:
    from polygraphy.logger import G_LOGGER

    class Forward(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            _forward(sender, errors, record.levelno, record.getMessage())

    logger = logging.getLogger("Polygraphy")
    logger.handlers[:] = [Forward()]
    logger.propagate = False
    logger.setLevel(logging.DEBUG)
    G_LOGGER.use_python_logging_system = True


def _forward(sender: Connection, errors: list[str], level: int, text: str) -> None:
    text = text.strip()
    if level >= logging.ERROR:
        errors.append(text)
    quiet = level < logging.WARNING or any(words in text for words in _BENIGN)
    sender.send(Log(logging.DEBUG if quiet else min(level, 30), text))


def _listen_to_builder(
    module: Any, sender: Connection, errors: list[str], listed: list[str]
) -> None:
    """Give Polygraphy a logger that keeps the list of layers and drops the other verbose lines.

    A build logs ten thousand of those; Polygraphy's own logger would format each.
    """
    from polygraphy.backend.trt import util

    severity = module.ILogger.Severity
    levels = {
        severity.INTERNAL_ERROR: logging.ERROR,
        severity.ERROR: logging.ERROR,
        severity.WARNING: logging.WARNING,
        severity.INFO: logging.INFO,
    }
    told: set[str] = set()

    class Listen(module.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            module.ILogger.__init__(self)

        def log(self, level: Any, text: str) -> None:
            if level == severity.VERBOSE:
                if text.startswith(HEAD):
                    listed.append(text)
                return
            if level != severity.WARNING or text not in told:  # the same warning comes many times
                told.add(text)
                _forward(sender, errors, levels[level], text)

    util.TRT_LOGGER = Listen()


def _build(sender: Connection, request: BuildRequest, errors: list[str]) -> BuildResult:
    module = importlib.import_module(request.runtime)
    listed: list[str] = []
    _listen_to_builder(module, sender, errors, listed)
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
    if request.runtime == "tensorrt" and request.layers is not None:
        listed = [_inspect(module, plan)]
    return BuildResult(
        runtime_version=str(module.__version__),
        inputs=tuple(_spec(network.get_input(i)) for i in range(network.num_inputs)),
        outputs=tuple(_spec(network.get_output(i)) for i in range(network.num_outputs)),
        layer_types=_layer_types(network),
        layers_missing=_list_layers(request, str(module.__version__), listed),
    )


def _inspect(module: Any, plan: Any) -> str:
    """Return what TensorRT's inspector says of a plan; it asks for the GPU that it is for."""
    from polygraphy.backend.trt.util import get_trt_logger

    engine = module.Runtime(get_trt_logger()).deserialize_cuda_engine(plan)
    inspector = engine.create_engine_inspector()
    return str(inspector.get_engine_information(module.LayerInformationFormat.JSON))


def _list_layers(request: BuildRequest, version: str, listed: list[str]) -> str | None:
    """Write the plan's kernels to ``request.layers``; return why not where that is not possible."""
    if request.layers is None:
        return "not asked for"
    parse = parse_inspector if request.runtime == "tensorrt" else parse_rtx_layers
    try:
        raw = [layer for text in listed for layer in parse(text)]
        if not raw:
            return f"{request.runtime} {version} lists no layers"
        from pipeline.engines.layers.describe import describe_layers
        from pipeline.engines.layers.graph import read_graph
        from pipeline.engines.layers.records import write_layers

        found = describe_layers(
            raw, runtime=request.runtime, runtime_version=version, graph=read_graph(request.model)
        )
    except ModuleNotFoundError as error:  # where a bundle serves, these may be missing
        return f"Python package {error.name} is not installed"
    except ValueError as error:
        return str(error)
    write_layers(found, request.layers)
    return None


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
    if request.version_compatible:
        config.set_flag(module.BuilderFlag.VERSION_COMPATIBLE)
        # Or the plan brings a runtime of its own: code that whoever loads it would have to allow.
        config.set_flag(module.BuilderFlag.EXCLUDE_LEAN_RUNTIME)
    if request.compute_capability is not None:
        name = f"SM{request.compute_capability.replace('.', '')}"
        targets = sorted(module.ComputeCapability.__members__)
        if name not in targets:
            raise ValueError(f"no target {name}; there are {', '.join(targets)}")
        rtx: Any = config  # TensorRT itself builds for the GPU it is on, and has neither
        rtx.num_compute_capabilities = 1
        rtx.set_compute_capability(getattr(module.ComputeCapability, name), 0)
    return config


def _monitor(module: Any, sender: Connection) -> "trt.IProgressMonitor":
    class Monitor(module.IProgressMonitor):  # type: ignore[misc]
        def __init__(self) -> None:
            module.IProgressMonitor.__init__(self)

        def phase_start(self, phase_name: str, _parent: str | None, num_steps: int) -> None:
            sender.send(Phase(phase_name, steps=max(num_steps, 1)))

        def step_complete(self, phase_name: str, step: int) -> bool:
            sender.send(Phase(phase_name, done=step + 1))
            return True

        def phase_finish(self, phase_name: str) -> None:
            sender.send(Phase(phase_name))

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
