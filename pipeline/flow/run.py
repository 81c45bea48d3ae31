"""Run every stage in order, from the config's model to a published bundle."""

import shutil
from dataclasses import asdict, replace
from pathlib import Path

from pipeline.bundle.place import staging
from pipeline.bundle.proof import Proof
from pipeline.config import CacheConfig, EngineChoice, NumericType, PipelineConfig
from pipeline.contracts import EmbeddingRanges, Engine, Graphs, OnnxModel, Outcome, Report
from pipeline.flow.cached_stages import (
    Model,
    build,
    export,
    fuse,
    optimize,
    ranges,
    resolve,
    to_precision,
)
from pipeline.flow.checks import check
from pipeline.flow.environment import describe_environment
from pipeline.flow.store.stage_store import StageStore, StoreLimits
from pipeline.flow.timed_stages import Stages
from pipeline.graph.shared_weights import share_weights
from pipeline.measure.results import Validation
from pipeline.measure.unvalidated import unvalidated
from pipeline.report.entries.report import make_report
from pipeline.report.next_step import next_step
from pipeline.report.published import engines_beside, published_beside
from pipeline.stages.build import plan_build
from pipeline.stages.publish import publish, reject
from pipeline.text.datasets import Dataset, load_dataset


def run(config: PipelineConfig) -> Outcome:
    """Run the pipeline for one model at one precision.

    Publishes ``<artifacts_dir>/<model>/<precision>/``; where a gate fails, publishes nothing and
    leaves the report in ``<precision>.rejected/`` beside it. With ``validate.enabled=false`` it
    measures nothing and publishes ``<precision>.unvalidated/``.

    Raises:
        PipelineError: a stage could not do its work; nothing was published.
    """
    check(config)
    artifacts = Path(config.artifacts_dir)
    store = _open_store(config.cache, artifacts)
    timing_cache = Path(config.engine.timing_cache or artifacts / ".timing_cache")
    with staging(artifacts) as work:
        stages = Stages(store, work, config.model.name)
        dataset = load_dataset(config.dataset)
        texts = dataset.calibration

        model = resolve(stages, config.model)
        plan = plan_build(config.engine, max_length=model.source.max_length)
        fp32 = export(stages, model, config.exporter, texts)
        spans = ranges(stages, model, texts)
        graphs = to_precision(stages, model, fp32, config.precision, texts)
        if config.optimize:
            graphs = optimize(stages, model, graphs, texts)
            if config.precision.type is NumericType.fp16:
                graphs = fuse(stages, model, fp32, graphs, config.precision.keep_fp32, texts)
        graphs = share_weights(graphs, work / "graphs")
        engines = [
            build(stages, graphs.buildable, runtime, plan.profiles, config.engine, timing_cache)
            for runtime in plan.runtimes
        ]
        validation = _validate(stages, config, model, fp32, graphs, engines, dataset, spans)
        report = make_report(
            source=model.source,
            precision=config.precision.name,
            graphs=graphs,
            engines=engines,
            not_built=plan.not_built,
            validation=validation,
            stages=stages.times,
            environment=describe_environment(),
        )
        report = _place_beside(report, _target(config))
        if not report.passed:
            path = reject(report, work, _target(config, ".rejected"))
            return Outcome(published=False, path=path, report=report)
        path = _publish(
            stages, config, model, fp32, graphs, engines, report, validation.proof, spans, work
        )
    store.collect(_limits(config.cache))
    return Outcome(published=True, path=path, report=report)


def _validate(
    stages: Stages,
    config: PipelineConfig,
    model: Model,
    fp32: OnnxModel,
    graphs: Graphs,
    engines: list[Engine],
    dataset: Dataset,
    spans: EmbeddingRanges,
) -> Validation:
    with_openvino = config.engine.runtime is EngineChoice.auto
    if not config.validate.enabled:
        return unvalidated(graphs, engines, dataset, with_openvino=with_openvino)
    with stages.timed("validate"):
        from pipeline.stages.validate import validate

        return validate(
            model.source,
            fp32,
            graphs,
            engines,
            dataset,
            config.validate,
            ranges=spans,
            published=_target(config),
            with_openvino=with_openvino,
        )


def _publish(
    stages: Stages,
    config: PipelineConfig,
    model: Model,
    fp32: OnnxModel,
    graphs: Graphs,
    engines: list[Engine],
    report: Report,
    proof: Proof | None,
    spans: EmbeddingRanges,
    work: Path,
) -> Path:
    """Publish the bundle, and drop what an earlier run left in ``<precision>.rejected/``."""
    with stages.timed("publish"):
        path = publish(
            source=model.source,
            fp32_sha256=fp32.sha256,
            graphs=graphs,
            engines=engines,
            report=report,
            proof=proof,
            ranges=spans,
            config=asdict(config),
            work_dir=work,
            target=_target(config, "" if config.validate.enabled else ".unvalidated"),
            signing=config.publish.signing,
            with_weights=config.publish.weights,
        )
    if config.validate.enabled:
        shutil.rmtree(_target(config, ".rejected"), ignore_errors=True)
    return path


def _place_beside(report: Report, target: Path) -> Report:
    """Add what is published beside the bundle, and what to do first in the light of it."""
    data = dict(report.data)
    data["published"] = published_beside(target, data)
    data["engines_beside"] = engines_beside(target, data)
    data["next_step"] = next_step(data)
    return replace(report, data=data)


def _target(config: PipelineConfig, suffix: str = "") -> Path:
    """Return where a bundle lands, or with a suffix what is no bundle to deploy."""
    name = f"{config.precision.name}{suffix}"
    return Path(config.artifacts_dir) / config.model.name / name


def _open_store(config: CacheConfig, artifacts: Path) -> StageStore:
    directory = Path(config.directory) if config.directory else artifacts / ".cache"
    return StageStore(directory if config.enabled else None, refresh=config.refresh)


def _limits(config: CacheConfig) -> StoreLimits:
    return StoreLimits(
        bytes=None if config.max_gib is None else config.max_gib * 2**30,
        age_s=None if config.max_age_days is None else config.max_age_days * 86400,
    )
