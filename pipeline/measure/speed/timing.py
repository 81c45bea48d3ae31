"""Choose who is timed, and against whom, within ``validate.budget_s``."""

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.config import NumericType, ValidateConfig
from pipeline.contracts import SourceModel
from pipeline.engines.gpu import gpu_clocks
from pipeline.engines.torch import TorchEncoder
from pipeline.measure.results import BaselineResult
from pipeline.measure.speed.baselines import open_baselines
from pipeline.measure.speed.cold import REFERENCE, Cold, ColdJob, measure_cold
from pipeline.measure.speed.predecessor import Predecessor, open_predecessors
from pipeline.measure.speed.side import Side
from pipeline.measure.speed.speed import Speed, TimedText, measure_speed
from pipeline.runtime.encoder import TextEncoder

log = logging.getLogger(__name__)

TEXT_BATCHES = 4
"""From text to vectors, both sides sort by length and cut so many batches at least: few texts in
one would be mostly padding for Sentence Transformers, and a speed-up over padding is none."""

COLD_S = 120.0
"""A cold start that was begun may take this long: on a machine with a GPU PyTorch alone loads for
longer than what is left of a small budget."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Artifact:
    """An artifact that runs here: its file, its encoder of texts, the shapes it takes."""

    path: Path
    text: TextEncoder
    takes: Callable[[int, int], bool] | None

    @property
    def name(self) -> str:
        """The runtime's name."""
        return self.text.engine.name


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """What was timed; ``speed.artifacts`` and ``cold`` are in the order of the artifacts."""

    speed: Speed
    cold: Sequence[Cold | None]
    reference_cold: Cold | None
    baselines: tuple[BaselineResult, ...]
    predecessors: Mapping[str, Predecessor]
    gpu_clocks: Sequence[Mapping[str, float]]


def time_artifacts(
    source: SourceModel,
    references: Mapping[str, TorchEncoder],
    artifacts: Sequence[Artifact],
    text: TimedText,
    config: ValidateConfig,
    *,
    kind: NumericType,
    fp32: Path,
    published: Path,
    dataset_sha256: str,
) -> Timing:
    """Time the artifacts, the baselines and the published bundle against the reference.

    ``references`` are by device, the main one first. What opening the baselines takes (they may
    compile or export) is not of the budget.

    Raises:
        MeasureError: an artifact does not run.
    """
    deadline = time.perf_counter() + config.budget_s
    main = next(iter(references.values()))
    *cold, reference_cold = _measure_colds(source, main, artifacts, text, config, kind, deadline)
    began = time.perf_counter()
    opened, reasons = open_baselines(
        config.baselines, source, fp32, devices=list(references), trial=text.batches[-1]
    )
    deadline += time.perf_counter() - began
    names = [artifact.name for artifact in artifacts]
    predecessors = open_predecessors(published, names, dataset_sha256, text.batches[-1])
    clocks = [gpu_clocks()]
    batch_size = min(config.batch_size, -(-len(text.texts) // TEXT_BATCHES))
    speed = measure_speed(
        {device: _reference_side(encoder, batch_size) for device, encoder in references.items()},
        [_side(artifact, predecessors, batch_size) for artifact in artifacts],
        opened,
        text,
        config,
        budget_s=deadline - time.perf_counter(),
    )
    clocks.append(gpu_clocks())
    for name, timed in zip(names, speed.artifacts, strict=True):
        ratio, (low, high) = timed.throughput.speedup.median, timed.throughput.speedup.ci95
        device = timed.reference_device
        log.info(
            "%s: %.2fx PyTorch fp32 on %s (95 %%: %.2f to %.2f)", name, ratio, device, low, high
        )
    return Timing(
        speed=speed,
        cold=cold,
        reference_cold=reference_cold,
        baselines=(
            *(
                BaselineResult(
                    name=name,
                    device=device,
                    sentences_per_second=speed.baselines[name, device].sentences_per_second,
                    speedup=speed.baselines[name, device].speedup,
                )
                for name, device in opened
            ),
            *(BaselineResult(name=name, reason=reason) for name, reason in reasons.items()),
        ),
        predecessors=predecessors,
        gpu_clocks=[sample for sample in clocks if sample is not None],
    )


def _reference_side(encoder: TorchEncoder, batch_size: int) -> Side:
    return Side(
        encoder=encoder,
        encode_texts=lambda texts: encoder.model.encode(
            list(texts), batch_size=batch_size, show_progress_bar=False
        ),
    )


def _side(artifact: Artifact, predecessors: Mapping[str, Predecessor], batch_size: int) -> Side:
    before = predecessors.get(artifact.name)
    return Side(
        encoder=artifact.text.engine,
        encode_texts=lambda texts: artifact.text.encode(texts, batch_size),
        takes=artifact.takes,
        predecessor=before.encoder if before else None,
    )


def _measure_colds(
    source: SourceModel,
    reference: TorchEncoder,
    artifacts: Sequence[Artifact],
    text: TimedText,
    config: ValidateConfig,
    kind: NumericType,
    deadline: float,
) -> list[Cold | None]:
    """Measure the artifacts, then the reference; None where it is turned off or out of time."""
    subjects = [(a.name, a.path, a.text.engine.device) for a in artifacts]
    subjects.append((REFERENCE, source.path, reference.device))
    measured = []
    for engine, path, device in subjects:
        job = ColdJob(
            engine=engine,
            precision=kind.value,
            path=str(path.resolve()),
            assets=str(source.assets.resolve()),
            max_length=source.max_length,
            dimension=source.dimension,
            cuda=device == "cuda",
            trust_remote_code=source.trust_remote_code,
            texts=text.texts,
            prompt=source.prefix,
            batch_size=config.batch_size,
        )
        left = deadline - time.perf_counter()
        allowed = max(left, COLD_S)
        measured.append(measure_cold(job, timeout_s=allowed) if config.cold and left > 0 else None)
    return measured
