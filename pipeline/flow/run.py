"""Run every stage in order, from the config's model to a published bundle."""

from pathlib import Path

from pipeline.bundle.place import staging
from pipeline.config import CacheConfig, EngineChoice, NumericType, PipelineConfig
from pipeline.contracts import EmbeddingRanges, Engine, Graphs, OnnxModel, Outcome
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
from pipeline.flow.placing import Candidate, place, target_of
from pipeline.flow.store.stage_store import StageStore, StoreLimits
from pipeline.flow.timed_stages import Stages
from pipeline.graph.shared_weights import share_weights
from pipeline.measure.results import Validation
from pipeline.measure.unvalidated import unvalidated
from pipeline.report.entries.report import make_report
from pipeline.stages.build import plan_build
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
    store = open_store(config)
    with staging(Path(config.artifacts_dir)) as work:
        outcome = place(make_candidate(config, store, work))
    if outcome.published:
        store.collect(limits(config.cache))
    return outcome


def make_candidate(config: PipelineConfig, store: StageStore, work: Path) -> Candidate:
    """Run every stage before the last: what is returned was validated and is not published.

    Raises:
        PipelineError: a stage could not do its work.
    """
    timing_cache = Path(config.engine.timing_cache or Path(config.artifacts_dir) / ".timing_cache")
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
    return Candidate(
        config=config,
        stages=stages,
        work=work,
        source=model.source,
        fp32_sha256=fp32.sha256,
        graphs=graphs,
        engines=engines,
        ranges=spans,
        proof=validation.proof,
        report=report,
    )


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
            published=target_of(config),
            with_openvino=with_openvino,
        )


def open_store(config: PipelineConfig) -> StageStore:
    """Open the store that the config names, or one that keeps nothing."""
    cache = config.cache
    kept = Path(cache.directory) if cache.directory else Path(config.artifacts_dir) / ".cache"
    return StageStore(kept if cache.enabled else None, refresh=cache.refresh)


def limits(config: CacheConfig) -> StoreLimits:
    """Return how much the store may keep, and for how long."""
    return StoreLimits(
        bytes=None if config.max_gib is None else config.max_gib * 2**30,
        age_s=None if config.max_age_days is None else config.max_age_days * 86400,
    )
