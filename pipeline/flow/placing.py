"""Publish what was validated, or leave its report where a gate failed."""

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from pipeline.bundle.proof import Proof
from pipeline.config import PipelineConfig
from pipeline.contracts import EmbeddingRanges, Engine, Graphs, Outcome, Report, SourceModel
from pipeline.flow.timed_stages import Stages
from pipeline.report.next_step import next_step
from pipeline.report.published import engines_beside, published_beside
from pipeline.stages.publish import publish, reject


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A model at one precision, built and held to its gates, in files below ``work``."""

    config: PipelineConfig
    stages: Stages
    work: Path
    source: SourceModel
    fp32_sha256: str
    graphs: Graphs
    engines: Sequence[Engine]
    ranges: EmbeddingRanges
    proof: Proof | None
    report: Report


def place(candidate: Candidate, more: Mapping[str, Any] | None = None) -> Outcome:
    """Publish a candidate that passed; of one that failed leave the report, in ``….rejected/``.

    ``more`` are further keys of its report.

    Raises:
        PublishError: it cannot be written, or does not load as it was validated.
    """
    config = candidate.config
    report = _place_beside(candidate.report, target_of(config), more or {})
    if not report.passed:
        path = reject(report, candidate.work, target_of(config, ".rejected"))
        return Outcome(published=False, path=path, report=report)
    return Outcome(published=True, path=_publish(candidate, report), report=report)


def target_of(config: PipelineConfig, suffix: str = "") -> Path:
    """Return where a bundle lands, or with a suffix what is no bundle to deploy."""
    name = f"{config.precision.name}{suffix}"
    return Path(config.artifacts_dir) / config.model.name / name


def _publish(candidate: Candidate, report: Report) -> Path:
    """Publish the bundle, and drop what an earlier run left in ``<precision>.rejected/``."""
    config = candidate.config
    with candidate.stages.timed("publish"):
        path = publish(
            source=candidate.source,
            fp32_sha256=candidate.fp32_sha256,
            graphs=candidate.graphs,
            engines=candidate.engines,
            report=report,
            proof=candidate.proof,
            ranges=candidate.ranges,
            config=asdict(config),
            work_dir=candidate.work,
            target=target_of(config, "" if config.validate.enabled else ".unvalidated"),
            signing=config.publish.signing,
            with_weights=config.publish.weights,
        )
    if config.validate.enabled:
        shutil.rmtree(target_of(config, ".rejected"), ignore_errors=True)
    return path


def _place_beside(report: Report, target: Path, more: Mapping[str, Any]) -> Report:
    """Add what is published beside the bundle, and what to do first in the light of it."""
    data = {**report.data, **more}
    data["published"] = published_beside(target, data)
    data["engines_beside"] = engines_beside(target, data)
    data["next_step"] = next_step(data)
    return replace(report, data=data)
