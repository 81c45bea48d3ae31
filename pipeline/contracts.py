"""Define what passes between stages: frozen dataclasses, each with the sha256 of its source.

Each carries the sha256 of its own bytes and of what it was made from, so a bundle's lineage
can be walked back to the weights.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.config import NumericType

GRAPH_INPUTS = ("input_ids", "attention_mask", "token_type_ids")
GRAPH_OUTPUT = "sentence_embedding"

CUDA_GRAPH = Path("cuda/model.onnx")
"""The graph for ONNX Runtime on CUDA, in the bundle."""


def sha256_file(path: Path) -> str:
    """Return the sha256 of a file's bytes as 64 hex digits."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def combined_sha256(digests: Mapping[str, str]) -> str:
    """Return the one file's sha256, or that of the ``sha256sum`` lines of several."""
    if len(digests) == 1:
        return next(iter(digests.values()))
    lines = "".join(f"{digest}  {name}\n" for name, digest in sorted(digests.items()))
    return hashlib.sha256(lines.encode()).hexdigest()


def graph_sha256(files: Mapping[str, Mapping[str, Any]], name: str) -> str:
    """Return the sha256 of a graph among ``files``, of it and its external data together.

    As ``graph.files.model_sha256`` computes it from the files themselves.
    """
    sha256: str = files[name]["sha256"]
    data = files.get(f"{name}.data")
    if data is None:
        return sha256
    return hashlib.sha256(f"{sha256} {data['sha256']}".encode()).hexdigest()


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorSpec:
    """A graph input or output; a dynamic dimension is its name, a static one its size."""

    name: str
    dtype: str
    shape: tuple[str | int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceModel:
    """A Sentence Transformer on disk whose weights are known.

    ``assets`` holds what a server needs beside the graph (tokenizer, module configs), without
    weights. ``sha256`` is the weights file's; of several files, that of their ``sha256sum`` lines.
    ``candidates`` are the places tried, in order, with what came of each. ``dimension`` is the
    embedding's after truncation (``truncate_dim``).
    """

    name: str
    path: Path
    assets: Path
    origin: str
    location: str
    revision: str | None
    candidates: tuple[str, ...]
    weights: Mapping[str, str]
    sha256: str
    max_length: int
    dimension: int
    modules: tuple[str, ...]
    pooling: str
    prompts: Mapping[str, str]
    default_prompt: str | None
    trust_remote_code: bool

    @property
    def prefix(self) -> str:
        """The default prompt's text, which goes before every text; mostly empty."""
        return self.prompts.get(self.default_prompt, "") if self.default_prompt else ""


@dataclass(frozen=True, slots=True, kw_only=True)
class OnnxModel:
    """An ONNX graph that meets the graph contract (see ``docs/adr/0002-graph-contract.md``)."""

    path: Path
    sha256: str
    precision: NumericType
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    source_sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Graphs:
    """One precision as graphs of the same function.

    ``portable`` is the ``model.onnx`` of the bundle (int8: uint8 activations with zero point
    128, the form ONNX Runtime's CPU kernels are fast on). ``buildable`` is what TensorRT
    accepts (int8: zero point 0), the bundle's ``tensorrt/model.onnx``. Until ``optimize`` they
    may be the same file. ``cuda`` is the bundle's ``cuda/model.onnx``, fused for ONNX Runtime on
    CUDA, None where ``portable`` is the fastest there too.
    """

    portable: OnnxModel
    buildable: OnnxModel
    cuda: OnnxModel | None = None
    quantization: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbeddingRanges:
    """Smallest and largest value of each dimension, an ``.npy`` of float32 ``[2, dim]``.

    Of PyTorch fp32's vectors of ``texts`` calibration texts, whose lengths lie between ``norm_min``
    and ``norm_max``.
    """

    path: Path
    sha256: str
    texts: int
    norm_min: float
    norm_max: float
    source_sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """One TensorRT optimization profile: (batch, sequence) at min, opt and max."""

    min: tuple[int, int]
    opt: tuple[int, int]
    max: tuple[int, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Engine:
    """A serialized TensorRT or TensorRT-RTX plan.

    ``target`` says which GPUs it is for (``sm_89``, ``ampere_plus``), ``version_compatible``
    whether later versions of TensorRT and the lean runtime load it. ``layer_types`` counts the
    parsed network's layers by the type of their first output, before fusion. ``layers`` is the file
    of the plan's kernels (``pipeline.engines.layers``), None where the builder lists none.
    """

    path: Path
    sha256: str
    runtime: str
    runtime_version: str
    target: str
    profiles: tuple[Profile, ...]
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    layer_types: Mapping[str, int]
    source_sha256: str
    layers: Path | None = None
    version_compatible: bool = False

    @property
    def name(self) -> str:
        """The engine's directory in the bundle's ``engines/``."""
        return f"{self.runtime}-{self.runtime_version}-{self.target}"

    @property
    def file(self) -> str:
        """The plan's name in the bundle."""
        return f"engines/{self.name}/model.plan"

    def takes(self, batch: int, sequence: int) -> bool:
        """Whether a batch of this shape is inside one of the profiles."""
        return any(
            profile.min[0] <= batch <= profile.max[0]
            and profile.min[1] <= sequence <= profile.max[1]
            for profile in self.profiles
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class NotBuilt:
    """A runtime that could have had an engine and did not get one."""

    runtime: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What was measured; ``data`` is ``report.json`` (schema 1, see ``docs/report.md``)."""

    passed: bool
    failed_gates: tuple[str, ...]
    data: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How a run ended: ``path`` is the published bundle, or the report of a rejected one."""

    published: bool
    path: Path
    report: Report
