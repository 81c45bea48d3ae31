"""The flow: every stage in order, from the config's model to a published bundle."""

import contextlib
import dataclasses
import logging
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

from pipeline.config import EngineChoice, HighPrecision, NumericType, PipelineConfig
from pipeline.contracts import Graphs, OnnxModel, Outcome, Report, SourceModel
from pipeline.datasets import Dataset, load_dataset
from pipeline.environment import describe_environment
from pipeline.errors import ConfigError
from pipeline.report.data import StageTime, make_report
from pipeline.report.next_step import next_step
from pipeline.report.published import published_beside
from pipeline.sharing.transfer import references
from pipeline.stages.build import build, plan_build
from pipeline.stages.cast import cast
from pipeline.stages.export import export
from pipeline.stages.optimize import optimize
from pipeline.stages.publish import check_publish, publish, reject
from pipeline.stages.quantize import check_quantize, quantize
from pipeline.stages.resolve import resolve
from pipeline.stages.validate import check_validate, validate
from pipeline.store import staging

log = logging.getLogger(__name__)


def run(config: PipelineConfig) -> Outcome:
    """Run the pipeline for one model at one precision.

    Publishes ``<artifacts_dir>/<model>/<precision>/``; where a gate fails, publishes nothing and
    leaves the report in ``<precision>.rejected/`` beside it.

    Raises:
        PipelineError: a stage could not do its work; nothing was published.
    """
    artifacts = Path(config.artifacts_dir)
    target = artifacts / config.model.name / config.precision.name
    clock = _Clock()
    rejected = target.with_name(f"{target.name}.rejected")
    check_validate(config.validate)
    check_quantize(config.precision)
    check_publish(config.publish)
    references(config.publish)
    _check_half(config)
    with staging(artifacts) as work:
        dataset = load_dataset(config.dataset)
        with clock.stage("resolve"):
            source = resolve(config.model, work / "resolve")
        plan = plan_build(config.engine, max_length=source.max_length)
        with clock.stage("export"):
            fp32 = export(source, config.exporter, dataset.calibration, work / "export")
        graphs = _to_precision(fp32, source, config, dataset, work, clock)
        if config.optimize:
            with clock.stage("optimize"):
                graphs = optimize(graphs, source, dataset.calibration, work / "optimize")
        engines = []
        for runtime in plan.runtimes:
            with clock.stage(f"build {runtime}"):
                cache = Path(config.engine.timing_cache or artifacts / ".timing_cache")
                engines.append(
                    build(
                        graphs.buildable,
                        runtime,
                        plan.profiles,
                        config.engine,
                        cache,
                        work / "engines",
                    )
                )
        with clock.stage("validate"):
            validation = validate(
                source,
                fp32,
                graphs,
                engines,
                dataset,
                config.validate,
                published=target,
                with_openvino=config.engine.runtime is EngineChoice.auto,
            )
        report = make_report(
            source=source,
            precision=config.precision.name,
            graphs=graphs,
            engines=engines,
            not_built=plan.not_built,
            validation=validation,
            stages=clock.stages,
            environment=describe_environment(),
        )
        report = _place_beside(report, target)
        if not report.passed:
            path = reject(report, work, rejected)
            return Outcome(published=False, path=path, report=report)
        with clock.stage("publish"):
            path = publish(
                source=source,
                fp32_sha256=fp32.sha256,
                graphs=graphs,
                engines=engines,
                report=report,
                config=dataclasses.asdict(config),
                work_dir=work,
                target=target,
                signing=config.publish.signing,
            )
        shutil.rmtree(rejected, ignore_errors=True)
        return Outcome(published=True, path=path, report=report)


def _check_half(config: PipelineConfig) -> None:
    """Refuse fp16 for a model whose config says that it does not fit.

    Raises:
        ConfigError: precision=fp16, or int8 with fp16 between its GEMMs.
    """
    kind, between = config.precision.type, config.precision.high_precision
    if config.model.fp16 or kind is NumericType.fp32:
        return
    refused = f"model {config.model.name} does not fit fp16 (model.fp16=false): "
    if kind is NumericType.fp16:
        raise ConfigError(
            f"{refused}set precision=fp32, or precision=int8 precision.high_precision=fp32; "
            "model.fp16=true tries it, what overflows on the calibration text kept in fp32"
        )
    if between is HighPrecision.fp16:
        raise ConfigError(f"{refused}set precision.high_precision=fp32")


def _place_beside(report: Report, target: Path) -> Report:
    """Add what is published beside the bundle, and what to do first in the light of it."""
    data = dict(report.data)
    data["published"] = published_beside(target, data)
    data["next_step"] = next_step(data)
    return dataclasses.replace(report, data=data)


def _to_precision(
    fp32: OnnxModel,
    source: SourceModel,
    config: PipelineConfig,
    dataset: Dataset,
    work: Path,
    clock: "_Clock",
) -> Graphs:
    match config.precision.type:
        case NumericType.fp32:
            return Graphs(portable=fp32, buildable=fp32)
        case NumericType.fp16:
            with clock.stage("cast"):
                half = cast(
                    fp32,
                    source,
                    dataset.calibration,
                    work / "cast",
                    keep=config.precision.keep_fp32,
                )
            return Graphs(portable=half, buildable=half)
        case NumericType.int8:
            with clock.stage("quantize"):
                return quantize(
                    fp32, source, config.precision, dataset.calibration, work / "quantize"
                )


class _Clock:
    """Times the stages and says when each starts and ends."""

    def __init__(self) -> None:
        self.stages: list[StageTime] = []

    @contextlib.contextmanager
    def stage(self, name: str) -> Iterator[None]:
        log.info("%s …", name)
        start = time.perf_counter()
        yield
        seconds = time.perf_counter() - start
        log.info("%s done in %.1f s", name, seconds)
        self.stages.append(StageTime(name=name, seconds=round(seconds, 3)))
