"""Each stage as a step: what its output depends on, and how it is made where it is not stored.

A stage is imported where it is made: what the store holds costs no import of PyTorch.
"""

import contextlib
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

from pipeline.config import EngineConfig, Exporter, ModelConfig, PrecisionConfig
from pipeline.contracts import Engine, Graphs, OnnxModel, Profile, SourceModel
from pipeline.engines.gpu import find_gpu
from pipeline.flow.store.keys import Parts, code_sha256, digest, tree_sha256, versions
from pipeline.flow.store.records import T
from pipeline.flow.store.store import StageStore
from pipeline.report.entries.report import StageTime
from pipeline.source.locate import Place, locate

log = logging.getLogger(__name__)

_MODEL = ("torch", "transformers", "sentence-transformers", "tokenizers", "safetensors")
_GRAPH = ("numpy", "onnx", "onnx-ir", "onnxruntime", "onnxruntime-gpu", "tokenizers")


class Steps:
    """Runs stages or takes their outputs from the store; times them and says when each starts."""

    def __init__(self, store: StageStore, work: Path, subject: str) -> None:
        """Stages write below ``work``; ``subject`` names what a changed part is compared with."""
        self.times: list[StageTime] = []
        self._store = store
        self._work = work
        self._subject = subject

    def run(self, name: str, kind: type[T], parts: Parts, make: Callable[[Path], T]) -> T:
        """Return what ``make`` returns for ``parts``, now or the last time."""
        log.info("%s …", name)
        start = time.perf_counter()
        made, cached = self._store.get_or_make(name, kind, parts, self._subject, self._work, make)
        self._done(name, start, cached=cached)
        return made

    @contextlib.contextmanager
    def timed(self, name: str) -> Iterator[None]:
        """Time what is done every time."""
        log.info("%s …", name)
        start = time.perf_counter()
        yield
        self._done(name, start, cached=False)

    def _done(self, name: str, start: float, *, cached: bool) -> None:
        seconds = time.perf_counter() - start
        log.info("%s done in %.1f s", name, seconds)
        self.times.append(StageTime(name=name, seconds=round(seconds, 3), cached=cached))


def resolve(steps: Steps, config: ModelConfig) -> tuple[SourceModel, str]:
    """Return the model, and the sha256 of all its files, which later steps depend on."""
    place = locate(config)
    files = tree_sha256(place.path)

    def make(out: Path) -> SourceModel:
        from pipeline.stages.resolve import resolve

        return resolve(config, out, place)

    parts = {
        "code": code_sha256("pipeline.stages.resolve"),
        "model settings": digest(asdict(config)),
        "model files": files,
        "place": _place(place),
        "versions": versions(_MODEL),
    }
    return steps.run("resolve", SourceModel, parts, make), files


def export(
    steps: Steps, source: SourceModel, files: str, exporter: Exporter, texts: Sequence[str]
) -> OnnxModel:
    """Return the fp32 graph; it does not depend on the text that it is checked on."""

    def make(out: Path) -> OnnxModel:
        from pipeline.stages.export import export

        return export(source, exporter, texts, out)

    parts = {
        "code": code_sha256("pipeline.stages.export"),
        **_model(source, files),
        "exporter": exporter.value,
        "versions": versions({*_MODEL, *_GRAPH, "onnxscript", "optimum", "optimum-onnx"}),
    }
    return steps.run("export", OnnxModel, parts, make)


def cast(
    steps: Steps,
    fp32: OnnxModel,
    source: SourceModel,
    files: str,
    keep: Sequence[str],
    texts: Sequence[str],
) -> Graphs:
    """Return the fp16 graph; what the text reaches decides what stays in fp32."""

    def make(out: Path) -> OnnxModel:
        from pipeline.stages.cast import cast

        return cast(fp32, source, texts, out, keep=keep)

    parts = {
        "code": code_sha256("pipeline.stages.cast"),
        **_model(source, files),
        "fp32 graph": fp32.sha256,
        "calibration text": digest(list(texts)),
        "precision settings": digest(list(keep)),
        "versions": versions(_GRAPH),
    }
    half = steps.run("cast", OnnxModel, parts, make)
    return Graphs(portable=half, buildable=half)


def quantize(
    steps: Steps,
    fp32: OnnxModel,
    source: SourceModel,
    files: str,
    config: PrecisionConfig,
    texts: Sequence[str],
) -> Graphs:
    """Return the int8 graphs; the precision's name is nothing that they depend on."""

    def make(out: Path) -> Graphs:
        from pipeline.stages.quantize import quantize

        return quantize(fp32, source, config, texts, out)

    settings = {key: value for key, value in asdict(config).items() if key != "name"}
    parts = {
        "code": code_sha256("pipeline.stages.quantize"),
        **_model(source, files),
        "fp32 graph": fp32.sha256,
        "calibration text": digest(list(texts)),
        "precision settings": digest(settings),
        "versions": versions({*_GRAPH, "scipy"}),
    }
    return steps.run("quantize", Graphs, parts, make)


def optimize(
    steps: Steps, graphs: Graphs, source: SourceModel, files: str, texts: Sequence[str]
) -> Graphs:
    """Return the graphs with a faster ``model.onnx``, whatever the text that it is checked on."""

    def make(out: Path) -> Graphs:
        from pipeline.stages.optimize import optimize

        return optimize(graphs, source, texts, out)

    parts = {
        "code": code_sha256("pipeline.stages.optimize"),
        **_model(source, files),
        "graphs": digest([graphs.portable.sha256, graphs.buildable.sha256]),
        "quantization": digest(graphs.quantization),
        "versions": versions(_GRAPH),
    }
    return steps.run("optimize", Graphs, parts, make)


def build(
    steps: Steps,
    model: OnnxModel,
    runtime: str,
    profiles: Sequence[Profile],
    config: EngineConfig,
    timing_cache: Path,
) -> Engine:
    """Return the plan for this GPU; one of TensorRT-RTX is for no GPU in particular."""

    def make(out: Path) -> Engine:
        from pipeline.stages.build import build

        return build(model, runtime, profiles, config, timing_cache, out)

    gpu = find_gpu() if runtime == "tensorrt" else None
    parts = {
        "code": code_sha256("pipeline.stages.build"),
        "graph": model.sha256,
        "profiles": digest([asdict(profile) for profile in profiles]),
        "engine settings": digest([config.workspace_mib, config.optimization_level]),
        "GPU": "any" if gpu is None else f"{gpu.name}, {gpu.target}, driver {gpu.driver}",
        "versions": versions((runtime.replace("_", "-"), "polygraphy")),
    }
    return steps.run(f"build {runtime}", Engine, parts, make)


def _place(place: Place) -> str:
    where = (place.path.absolute(), place.origin, place.location, place.revision, place.candidates)
    return digest(list(map(str, where)))


def _model(source: SourceModel, files: str) -> dict[str, str]:
    """Return what the stages read of a model: its files, and what its config changes of them."""
    own = ("max_length", "dimension", "prompts", "default_prompt", "trust_remote_code")
    return {
        "model files": files,
        "model settings": digest({name: getattr(source, name) for name in own}),
    }
