"""Define what validation finds: the measurements of each artifact, and the gates they met.

Apart from ``contracts``, so that what a stage makes does not depend on how it is measured.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline.bundle.proof import Proof
from pipeline.measure.quality.agreement import Agreement
from pipeline.measure.quality.breakdown import Breakdown
from pipeline.measure.quality.search import SearchScores
from pipeline.measure.quality.tasks import TaskScores
from pipeline.measure.speed.cold import Cold
from pipeline.measure.speed.grid import GridCell
from pipeline.measure.speed.intervals import Speedup
from pipeline.measure.speed.latency import Latency
from pipeline.measure.speed.throughput import TextThroughput, Throughput
from pipeline.runtime.invariance import Invariance

CUDA_NAME = "onnxruntime_cuda"
"""The artifact that is ``cuda/model.onnx`` in ONNX Runtime."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Gate:
    """A threshold and what was seen.

    ``setting`` is the threshold's key in the config; ``relative_to`` is ``fp32`` or ``published``
    where ``observed`` is a difference from that, or a ratio to it. ``detail`` names what is at
    fault.
    """

    name: str
    threshold: float
    observed: float
    setting: str
    relative_to: str | None = None
    detail: str | None = None

    @property
    def passed(self) -> bool:
        """Whether the value reaches the threshold; NaN never does."""
        return self.observed >= self.threshold


@dataclass(frozen=True, slots=True, kw_only=True)
class ArtifactResult:
    """One artifact's measurements, or why there are none.

    ``gemms`` counts the GEMM kernels that ran, in ``integer`` and in ``float``, where the runtime
    tells; ``kernels`` what ran on CUDA (``speed.profile``). ``reference_device`` is where the
    reference ran that it was timed against.
    """

    name: str
    path: Path
    reason: str | None = None
    device: str | None = None
    reference_device: str | None = None
    agreement: Agreement | None = None
    breakdown: Breakdown | None = None
    invariance: Invariance | None = None
    tasks: Mapping[str, TaskScores] = field(default_factory=dict)
    search: SearchScores | None = None
    throughput: Throughput | None = None
    with_tokenization: TextThroughput | None = None
    grid: Sequence[GridCell] = ()
    latency: Latency | None = None
    cold: Cold | None = None
    gemms: Mapping[str, int] | None = None
    kernels: Mapping[str, Any] | None = None
    gates: tuple[Gate, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class BaselineResult:
    """What a user would run instead: its speed over the reference, or why it was not timed."""

    name: str
    device: str | None = None
    sentences_per_second: float | None = None
    speedup: Speedup | None = None
    reason: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Validation:
    """The reference and every artifact's result.

    ``dataset_sha256`` is of the evaluation texts. ``gpu_clocks`` are the GPU's clocks and power
    before and after timing, where there is a GPU. Not ``executed``: validation was turned off, no
    artifact ran, and nothing of the reference is known. ``proof`` goes into the bundle.
    """

    executed: bool = True
    reference_device: str | None
    reference_threads: int | None
    dataset: str
    dataset_sha256: str | None
    reference_latency: Latency | None
    reference_cold: Cold | None
    reference_search: SearchScores | None = None
    baselines: tuple[BaselineResult, ...]
    gpu_clocks: Sequence[Mapping[str, float]] = ()
    artifacts: tuple[ArtifactResult, ...]
    proof: Proof | None = None

    @property
    def failed_gates(self) -> tuple[str, ...]:
        """What failed, as ``artifact: gate observed < threshold (setting)``."""
        return tuple(
            f"{artifact.name}: {gate.name} {gate.observed:.6f} < {gate.threshold} ({gate.setting})"
            + (f": {gate.detail}" if gate.detail else "")
            for artifact in self.artifacts
            for gate in artifact.gates
            if not gate.passed
        )
