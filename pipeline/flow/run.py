"""The flow: every stage in order, from the config's model to a published bundle."""

import dataclasses
import shutil
from collections.abc import Sequence
from pathlib import Path

from pipeline.bundle.place import staging
from pipeline.config import (
    CacheConfig,
    EngineChoice,
    NumericType,
    PipelineConfig,
    PrecisionConfig,
)
from pipeline.contracts import Engine, Graphs, OnnxModel, Outcome, Report, SourceModel
from pipeline.flow import cached_stages as steps
from pipeline.flow.cached_stages import Steps
from pipeline.flow.checks import check
from pipeline.flow.environment import describe_environment
from pipeline.flow.store.store import Limits, StageStore
from pipeline.measure.results import Validation
from pipeline.measure.unvalidated import unvalidated
from pipeline.report.entries.report import make_report
from pipeline.report.next_step import next_step
from pipeline.report.published import published_beside
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
    artifacts = Path(config.artifacts_dir)
    check(config)
    store = _open_store(config.cache, artifacts)
    with staging(artifacts) as work:
        stages = Steps(store, work, config.model.name)
        dataset = load_dataset(config.dataset)
        texts = dataset.calibration
        source, files = steps.resolve(stages, config.model)
        plan = plan_build(config.engine, max_length=source.max_length)
        fp32 = steps.export(stages, source, files, config.exporter, texts)
        graphs = _to_precision(stages, fp32, source, files, config.precision, texts)
        if config.optimize:
            graphs = steps.optimize(stages, graphs, source, files, texts)
        timing_cache = Path(config.engine.timing_cache or artifacts / ".timing_cache")
        engines = [
            steps.build(
                stages, graphs.buildable, runtime, plan.profiles, config.engine, timing_cache
            )
            for runtime in plan.runtimes
        ]
        validation = _validate(stages, config, source, fp32, graphs, engines, dataset)
        report = make_report(
            source=source,
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
        with stages.timed("publish"):
            path = publish(
                source=source,
                fp32_sha256=fp32.sha256,
                graphs=graphs,
                engines=engines,
                report=report,
                config=dataclasses.asdict(config),
                work_dir=work,
                target=_target(config, "" if config.validate.enabled else ".unvalidated"),
                signing=config.publish.signing,
                with_weights=config.publish.weights,
            )
        if config.validate.enabled:
            shutil.rmtree(_target(config, ".rejected"), ignore_errors=True)
    store.collect(_limits(config.cache))
    return Outcome(published=True, path=path, report=report)


def _target(config: PipelineConfig, suffix: str = "") -> Path:
    """Return where a bundle lands, or with a suffix what is no bundle to deploy."""
    name = f"{config.precision.name}{suffix}"
    return Path(config.artifacts_dir) / config.model.name / name


def _open_store(config: CacheConfig, artifacts: Path) -> StageStore:
    directory = Path(config.directory) if config.directory else artifacts / ".cache"
    return StageStore(directory if config.enabled else None, refresh=config.refresh)


def _limits(config: CacheConfig) -> Limits:
    return Limits(
        bytes=None if config.max_gib is None else config.max_gib * 2**30,
        age_s=None if config.max_age_days is None else config.max_age_days * 86400,
    )


def _validate(
    stages: Steps,
    config: PipelineConfig,
    source: SourceModel,
    fp32: OnnxModel,
    graphs: Graphs,
    engines: Sequence[Engine],
    dataset: Dataset,
) -> Validation:
    with_openvino = config.engine.runtime is EngineChoice.auto
    if not config.validate.enabled:
        return unvalidated(graphs, engines, dataset, with_openvino=with_openvino)
    with stages.timed("validate"):
        from pipeline.stages.validate import validate

        return validate(
            source,
            fp32,
            graphs,
            engines,
            dataset,
            config.validate,
            published=_target(config),
            with_openvino=with_openvino,
        )


def _place_beside(report: Report, target: Path) -> Report:
    """Add what is published beside the bundle, and what to do first in the light of it."""
    data = dict(report.data)
    data["published"] = published_beside(target, data)
    data["next_step"] = next_step(data)
    return dataclasses.replace(report, data=data)


def _to_precision(
    stages: Steps,
    fp32: OnnxModel,
    source: SourceModel,
    files: str,
    config: PrecisionConfig,
    texts: Sequence[str],
) -> Graphs:
    match config.type:
        case NumericType.fp32:
            return Graphs(portable=fp32, buildable=fp32)
        case NumericType.fp16:
            return steps.cast(stages, fp32, source, files, config.keep_fp32, texts)
        case NumericType.int8:
            return steps.quantize(stages, fp32, source, files, config, texts)
