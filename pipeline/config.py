"""Define the configuration: plain dataclasses that Hydra checks keys and types against.

They are not frozen because OmegaConf has to fill them. ``conf/config.yaml`` starts from the
schema stored here, so an unknown key or a wrong type fails at composition, with its name. The
edge (``pipeline.__main__``) turns the composed config into a ``PipelineConfig`` once; nothing
past it sees OmegaConf. Paths are ``str`` here and ``pathlib.Path`` after the edge.
"""

from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

MISSING: Any = "???"  # OmegaConf's own mark; importing it would make serving need Hydra

_IN_WHEEL = Path(__file__).parent / "conf"
CONF_DIR = _IN_WHEEL if _IN_WHEEL.is_dir() else Path(__file__).parent.parent / "conf"
"""Where the YAML files are: inside the installed package, or at the top of a checkout."""


class Exporter(StrEnum):
    """What turns the Sentence Transformer into ONNX."""

    torch = "torch"
    optimum = "optimum"


class NumericType(StrEnum):
    """The arithmetic of a graph's GEMMs."""

    fp32 = "fp32"
    fp16 = "fp16"
    bf16 = "bf16"
    fp8 = "fp8"
    int8 = "int8"


class Rounding(StrEnum):
    """How int8 and fp8 weights are rounded."""

    gptq = "gptq"
    nearest = "nearest"


class ScaleMethod(StrEnum):
    """How the step of an int8 activation is found."""

    max = "max"
    percentile = "percentile"
    mse = "mse"


class HighPrecision(StrEnum):
    """What an int8 engine computes in outside its int8 GEMMs."""

    fp16 = "fp16"
    fp32 = "fp32"


class DatasetFormat(StrEnum):
    """How the text to calibrate and validate on is stored."""

    sample = "sample"
    jsonl = "jsonl"
    csv = "csv"
    beir = "beir"
    mteb = "mteb"


class EngineChoice(StrEnum):
    """Which runtimes get an engine; ONNX Runtime always gets ``model.onnx``."""

    auto = "auto"
    tensorrt = "tensorrt"
    tensorrt_rtx = "tensorrt_rtx"
    onnxruntime = "onnxruntime"


class Device(StrEnum):
    """Where the PyTorch reference runs."""

    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"


class Baseline(StrEnum):
    """What a user would run instead of an artifact."""

    onnxruntime_fp32 = "onnxruntime_fp32"
    torch_fp16 = "torch_fp16"
    torch_compile = "torch_compile"
    torch_cuda_graph = "torch_cuda_graph"
    onnx_o4 = "onnx_o4"


@dataclass
class ModelConfig:
    """Which Sentence Transformer, tried in this order: directory, package, hub id.

    ``prompts`` and ``default_prompt`` go over the checkpoint's own, as ``truncate_dim`` does; an
    empty prompt turns one off. ``fp16`` says whether the activations fit fp16's range.
    """

    name: str = MISSING
    directory: str | None = None
    package: str | None = None
    hub_id: str | None = None
    revision: str | None = None
    weights_sha256: str | None = None
    trust_remote_code: bool = False
    max_length: int | None = None
    prompts: dict[str, str] = field(default_factory=dict)
    default_prompt: str | None = None
    truncate_dim: int | None = None
    fp16: bool = True


@dataclass
class TargetConfig:
    """The agreement to reach on held-back text; GEMMs are left out of int8 or fp8 until it is."""

    cosine_mean: float | None = None


@dataclass
class PrecisionConfig:
    """What the GEMMs compute in, and how int8 and fp8 get there.

    ``candidates`` are names of precisions to choose from (``precision=auto``).
    """

    name: str = MISSING
    type: NumericType = MISSING
    candidates: list[str] = field(default_factory=list)
    calibration_sentences: int = 1024
    held_back: float = 0.2
    spans_per_sentence: int = 3
    vocabulary_spans_per_sentence: int = 2
    split_share: float = 0.02
    widen_share: float = 0.0
    smoothing_alphas: list[float] = field(default_factory=lambda: [0.8, 0.85, 0.9, 0.95])
    shift: bool = True
    activation_scales: list[ScaleMethod] = field(default_factory=lambda: [ScaleMethod.max])
    rounding: Rounding = Rounding.gptq
    bias_correction: bool = True
    reconstruction_steps: int = 0
    quantize_embeddings: bool = True
    quantize_attention: bool = False
    engine_aware: str | None = None
    high_precision: HighPrecision = HighPrecision.fp16
    keep_fp32: list[str] = field(default_factory=list)
    target: TargetConfig = field(default_factory=TargetConfig)


@dataclass
class DatasetConfig:
    """Text to calibrate and validate on; columns are of ``jsonl`` and ``csv``."""

    name: str = MISSING
    format: DatasetFormat = MISSING
    path: str | None = None
    text_column: str | None = None
    group_column: str | None = None
    kind_column: str | None = None
    sentence1_column: str | None = None
    sentence2_column: str | None = None
    score_column: str | None = None
    split: str = "test"
    task: str | None = None
    subset: str | None = None
    calibration_fraction: float = 0.0


@dataclass
class EngineConfig:
    """TensorRT engines: runtimes, optimization profiles and builder limits."""

    runtime: EngineChoice = MISSING
    sequence_buckets: list[int] | None = None
    max_batch: int = 64
    opt_batch: int = 16
    workspace_mib: int = 2048
    optimization_level: int | None = None
    version_compatible: bool = False
    timing_cache: str | None = None
    timeout_s: int = 3600


@dataclass
class PublishedGatesConfig:
    """The least an artifact must reach against the published bundle it would replace."""

    cosine_mean: float | None = None
    tasks: float | None = None
    speed: float | None = None


@dataclass
class PlanGatesConfig:
    """The least that an engine's own layers must show, as shares; null: no gate."""

    int8_gemms: float | None = None
    fp8_gemms: float | None = None
    gemm_types: float | None = None
    attention_fused: dict[str, float | None] = field(default_factory=dict)


@dataclass
class SearchGatesConfig:
    """The least a search must find of what exact float32 search finds, by form of vector."""

    recall_at_10: dict[str, float | None] = field(default_factory=dict)


@dataclass
class GatesConfig:
    """The least an artifact must reach, mostly by numeric type of the graph; null: no gate."""

    cosine_mean: dict[str, float | None] = field(default_factory=dict)
    cosine_p1: dict[str, float | None] = field(default_factory=dict)
    tasks: dict[str, float | None] = field(default_factory=dict)
    invariance: dict[str, float | None] = field(default_factory=dict)
    vectors_finite: float | None = None
    vectors_nonzero: float | None = None
    speed: dict[str, float | None] = field(default_factory=dict)
    plan: PlanGatesConfig = field(default_factory=PlanGatesConfig)
    search: SearchGatesConfig = field(default_factory=SearchGatesConfig)
    published: PublishedGatesConfig = field(default_factory=PublishedGatesConfig)


@dataclass
class GridConfig:
    """Batch sizes and sequence lengths that are timed against each other."""

    batch: list[int] = field(default_factory=lambda: [1, 8, 32, 128, 256])
    sequence: list[int] = field(default_factory=lambda: [16, 64, 128, 256])


@dataclass
class ValidateConfig:
    """What is measured, for how long, and what has to hold; not ``enabled``: nothing is."""

    enabled: bool = True
    device: Device = Device.auto
    max_sentences: int = 1000
    batch_size: int = 32
    budget_s: float = 35.0
    timing_sentences: int = 64
    min_rounds: int = 8
    max_rounds: int = 60
    narrow: float = 0.04
    latency_runs: int = 500
    worst_texts: int = 10
    check_texts: int = 256
    cold: bool = True
    baselines: list[Baseline] | None = None
    grid: GridConfig = field(default_factory=GridConfig)
    gates: GatesConfig = field(default_factory=GatesConfig)


@dataclass
class SigningConfig:
    """Signing of a bundle with a private key, a PEM file; null: not signed."""

    key: str | None = None


@dataclass
class HubConfig:
    """Where on the Hugging Face hub a bundle goes; ``repo_id`` null: nowhere."""

    repo_id: str | None = None
    revision: str = "main"
    private: bool = True


@dataclass
class OciConfig:
    """Where in an OCI registry a bundle goes, ``registry/repository:tag``; null: nowhere."""

    reference: str | None = None


@dataclass
class PublishConfig:
    """What happens to a bundle that passed its gates, beside being published here."""

    weights: bool = False
    signing: SigningConfig = field(default_factory=SigningConfig)
    hub: HubConfig = field(default_factory=HubConfig)
    oci: OciConfig = field(default_factory=OciConfig)


@dataclass
class CacheConfig:
    """The store of stage outputs; null: no limit, and ``<artifacts_dir>/.cache``."""

    enabled: bool = True
    directory: str | None = None
    refresh: bool = False
    max_gib: float | None = 50.0
    max_age_days: float | None = 30.0


@dataclass
class PipelineConfig:
    """One run: one model at one precision, published as one bundle.

    ``target`` is what ``precision=auto`` chooses for; None is this machine.
    """

    model: ModelConfig = field(default_factory=ModelConfig)
    precision: PrecisionConfig = field(default_factory=PrecisionConfig)
    dataset: DatasetConfig = field(default_factory=DatasetConfig)
    engine: EngineConfig = field(default_factory=EngineConfig)
    validate: ValidateConfig = field(default_factory=ValidateConfig)
    publish: PublishConfig = field(default_factory=PublishConfig)
    cache: CacheConfig = field(default_factory=CacheConfig)
    exporter: Exporter = Exporter.torch
    optimize: bool = True
    target: str | None = None
    artifacts_dir: str = "artifacts"


def register_schema() -> None:
    """Store the schema that ``conf/config.yaml`` names first in its defaults list."""
    from hydra.core.config_store import ConfigStore

    ConfigStore.instance().store(name="schema", node=PipelineConfig)
