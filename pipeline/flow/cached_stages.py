"""Say what each stage's output depends on, and run it where the store does not hold that output.

A stage is imported where it is made: what the store holds costs no import of PyTorch.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from pipeline.config import EngineConfig, Exporter, ModelConfig, NumericType, PrecisionConfig
from pipeline.contracts import (
    EmbeddingRanges,
    Engine,
    Graphs,
    OnnxModel,
    Profile,
    SourceModel,
)
from pipeline.engines.gpu import find_gpu
from pipeline.flow.store.keys import Parts, code_sha256, digest, tree_sha256, versions
from pipeline.flow.timed_stages import Stages
from pipeline.source.locate import Located, locate

_MODEL = {"numpy", "safetensors", "sentence-transformers", "tokenizers", "torch", "transformers"}
_GRAPH = {
    "ml-dtypes",
    "numpy",
    "onnx",
    "onnx-ir",
    "onnxruntime",
    "onnxruntime-gpu",
    "tokenizers",
}
PACKAGES = {
    "resolve": _MODEL | {"huggingface-hub"},
    "export": _MODEL | _GRAPH | {"onnxscript", "optimum", "optimum-onnx"},
    "ranges": _MODEL,
    "cast": _GRAPH,
    "quantize": _GRAPH | {"scipy", "torch"},
    "optimize": _GRAPH,
    "fuse": _GRAPH,
    "build": {"polygraphy"},
}
"""The packages that each stage computes with: another version may give another output."""

PLANS = {"tensorrt-rtx", "polygraphy"}
"""What quantize computes with besides, where it asks what plans would run."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """A resolved model, and the sha256 of all its files, which every stage after depends on."""

    source: SourceModel
    files_sha256: str


def resolve(stages: Stages, config: ModelConfig) -> Model:
    """Return the model that the config names."""
    located = locate(config)
    files = tree_sha256(located.path)

    def make(out: Path) -> SourceModel:
        from pipeline.stages.resolve import resolve

        return resolve(config, out, located)

    parts = {
        "code": code_sha256("pipeline.stages.resolve"),
        "model settings": digest(asdict(config)),
        "model files": files,
        "place": _place(located),
        "versions": versions(PACKAGES["resolve"]),
    }
    return Model(source=stages.run("resolve", SourceModel, parts, make), files_sha256=files)


def export(stages: Stages, model: Model, exporter: Exporter, texts: Sequence[str]) -> OnnxModel:
    """Return the fp32 graph; it does not depend on the text that it is checked on."""

    def make(out: Path) -> OnnxModel:
        from pipeline.stages.export import export

        return export(model.source, exporter, texts, out)

    parts = {
        "code": code_sha256("pipeline.stages.export"),
        **_model(model),
        "exporter": exporter.value,
        "versions": versions(PACKAGES["export"]),
    }
    return stages.run("export", OnnxModel, parts, make)


def ranges(stages: Stages, model: Model, texts: Sequence[str]) -> EmbeddingRanges:
    """Return the ranges of the model's vectors, the same for every precision of its graph."""

    def make(out: Path) -> EmbeddingRanges:
        from pipeline.stages.ranges import measure_ranges

        return measure_ranges(model.source, texts, out)

    parts = {
        "code": code_sha256("pipeline.stages.ranges"),
        **_model(model),
        "calibration text": digest(list(texts)),
        "versions": versions(PACKAGES["ranges"]),
    }
    return stages.run("ranges", EmbeddingRanges, parts, make)


def to_precision(
    stages: Stages,
    model: Model,
    fp32: OnnxModel,
    config: PrecisionConfig,
    texts: Sequence[str],
) -> Graphs:
    """Return the graphs of the precision asked for: cast, quantized, or fp32 as it is."""
    match config.type:
        case NumericType.fp32:
            return Graphs(portable=fp32, buildable=fp32)
        case NumericType.fp16:
            return cast(stages, model, fp32, config.keep_fp32, texts)
        case NumericType.bf16:
            return cast_bf16(stages, model, fp32, config.keep_fp32, texts)
        case NumericType.int8 | NumericType.fp8:
            return quantize(stages, model, fp32, config, texts)


def cast(
    stages: Stages,
    model: Model,
    fp32: OnnxModel,
    keep: Sequence[str],
    texts: Sequence[str],
) -> Graphs:
    """Return the fp16 graph; what the text reaches decides what stays in fp32."""

    def make(out: Path) -> OnnxModel:
        from pipeline.stages.cast import cast

        return cast(fp32, model.source, texts, out, keep=keep)

    half = stages.run("cast", OnnxModel, _cast_parts(model, fp32, keep, texts), make)
    return Graphs(portable=half, buildable=half)


def cast_bf16(
    stages: Stages,
    model: Model,
    fp32: OnnxModel,
    keep: Sequence[str],
    texts: Sequence[str],
) -> Graphs:
    """Return the bf16 graph and its form for CPUs; the text decides how much stays in fp32."""

    def make(out: Path) -> Graphs:
        from pipeline.stages.cast import cast_bf16

        return cast_bf16(fp32, model.source, texts, out, keep=keep)

    return stages.run("cast_bf16", Graphs, _cast_parts(model, fp32, keep, texts), make)


def _cast_parts(model: Model, fp32: OnnxModel, keep: Sequence[str], texts: Sequence[str]) -> Parts:
    return {
        "code": code_sha256("pipeline.stages.cast"),
        **_model(model),
        "fp32 graph": fp32.sha256,
        "calibration text": digest(list(texts)),
        "precision settings": digest(list(keep)),
        "versions": versions(PACKAGES["cast"]),
    }


def quantize(
    stages: Stages,
    model: Model,
    fp32: OnnxModel,
    config: PrecisionConfig,
    texts: Sequence[str],
) -> Graphs:
    """Return the int8 or fp8 graphs; the precision's name is nothing that they depend on."""

    def make(out: Path) -> Graphs:
        from pipeline.stages.quantize import quantize

        return quantize(fp32, model.source, config, texts, out)

    settings = {key: value for key, value in asdict(config).items() if key != "name"}
    parts = {
        "code": code_sha256("pipeline.stages.quantize"),
        **_model(model),
        "fp32 graph": fp32.sha256,
        "calibration text": digest(list(texts)),
        "precision settings": digest(settings),
        "versions": versions(PACKAGES["quantize"] | (PLANS if config.engine_aware else set())),
    }
    return stages.run("quantize", Graphs, parts, make)


def optimize(stages: Stages, model: Model, graphs: Graphs, texts: Sequence[str]) -> Graphs:
    """Return the graphs rewritten for who runs them, whatever the text that they are checked on."""

    def make(out: Path) -> Graphs:
        from pipeline.stages.optimize import optimize

        return optimize(graphs, model.source, texts, out)

    parts = {
        "code": code_sha256("pipeline.stages.optimize"),
        **_model(model),
        "graphs": digest([graphs.portable.sha256, graphs.buildable.sha256]),
        "quantization": digest(graphs.quantization),
        "versions": versions(PACKAGES["optimize"]),
    }
    return stages.run("optimize", Graphs, parts, make)


def fuse(
    stages: Stages,
    model: Model,
    fp32: OnnxModel,
    graphs: Graphs,
    keep: Sequence[str],
    texts: Sequence[str],
) -> Graphs:
    """Return the graphs with one for CUDA; what the text reaches decides what stays in fp32."""

    def make(out: Path) -> OnnxModel:
        from pipeline.stages.fuse import fuse

        return fuse(fp32, model.source, texts, out, keep=keep)

    parts = {
        "code": code_sha256("pipeline.stages.fuse"),
        **_model(model),
        "fp32 graph": fp32.sha256,
        "calibration text": digest(list(texts)),
        "precision settings": digest(list(keep)),
        "versions": versions(PACKAGES["fuse"]),
    }
    return replace(graphs, cuda=stages.run("fuse", OnnxModel, parts, make))


def build(
    stages: Stages,
    graph: OnnxModel,
    runtime: str,
    profiles: Sequence[Profile],
    config: EngineConfig,
    timing_cache: Path,
) -> Engine:
    """Return the plan for this GPU; one of TensorRT-RTX is for no GPU in particular."""

    def make(out: Path) -> Engine:
        from pipeline.stages.build import build

        return build(graph, runtime, profiles, config, timing_cache, out)

    # TensorRT-RTX's own targets have no fp8 among them: such a plan is for one type of GPU
    gpu = find_gpu() if runtime == "tensorrt" or graph.precision is NumericType.fp8 else None
    parts = {
        "code": code_sha256("pipeline.stages.build"),
        "graph": graph.sha256,
        "profiles": digest([asdict(profile) for profile in profiles]),
        "engine settings": digest(
            [config.workspace_mib, config.optimization_level, config.version_compatible]
        ),
        "GPU": "any" if gpu is None else f"{gpu.name}, {gpu.target}, driver {gpu.driver}",
        "versions": versions(PACKAGES["build"] | {runtime.replace("_", "-")}),
    }
    return stages.run(f"build {runtime}", Engine, parts, make)


def _place(located: Located) -> str:
    where = (
        located.path.absolute(),
        located.origin,
        located.location,
        located.revision,
        located.candidates,
    )
    return digest(list(map(str, where)))


def _model(model: Model) -> dict[str, str]:
    """Return what the stages read of a model: its files, and what its config changes of them."""
    own = ("max_length", "dimension", "prompts", "default_prompt", "trust_remote_code")
    return {
        "model files": model.files_sha256,
        "model settings": digest({name: getattr(model.source, name) for name in own}),
    }
