"""Run every artifact that can run here against PyTorch fp32, and apply the gates."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from pipeline.config import Baseline, NumericType, ValidateConfig
from pipeline.contracts import EmbeddingRanges, Engine, Graphs, OnnxModel, SourceModel
from pipeline.engines.layers.records import read_layers
from pipeline.engines.onnxruntime import has_cuda
from pipeline.engines.opening import open_encoder
from pipeline.engines.openvino import missing
from pipeline.engines.tensorrt import obstacle
from pipeline.graph.overflow import check_overflow
from pipeline.measure.bench import Bench, open_references, set_up, text_encoder, time_text
from pipeline.measure.gates import Against, Evidence, apply_gates
from pipeline.measure.plan_gates import apply_plan_gates, promise_of
from pipeline.measure.proof import make_proof
from pipeline.measure.quality.quality import Quality, measure_quality
from pipeline.measure.quality.search import search_reference
from pipeline.measure.results import CUDA_NAME, ArtifactResult, Gate, Validation
from pipeline.measure.settings import check_validate
from pipeline.measure.speed.profile import count_gemms, count_kernels
from pipeline.measure.speed.speed import ArtifactSpeed, TimedText
from pipeline.measure.speed.timing import Artifact, Timing, time_artifacts
from pipeline.text.datasets import Dataset, spread
from pipeline.text.tokens import TokenBatch

log = logging.getLogger(__name__)

OVERFLOW_TEXTS = 128
"""Texts that are run to see how far tensors held in fp16 reach."""


def validate(
    source: SourceModel,
    fp32: OnnxModel,
    graphs: Graphs,
    engines: Sequence[Engine],
    dataset: Dataset,
    config: ValidateConfig,
    *,
    ranges: EmbeddingRanges,
    published: Path,
    with_openvino: bool,
) -> Validation:
    """Measure agreement, task scores and speed of ``model.onnx`` and of each engine.

    An engine that cannot run on this machine is reported with the reason and no number.
    ``published`` is the bundle that this run would replace, if there is one; ``with_openvino`` runs
    ``model.onnx`` in OpenVINO as well.

    Raises:
        ConfigError: a setting out of range.
        MeasureError: an artifact that should run does not, or leaves fp16's range.
    """
    import torch

    check_validate(config)
    kind = graphs.portable.precision
    exact = fp32 if kind is NumericType.fp16 else graphs.portable
    check_overflow(exact, graphs.buildable, source, spread(dataset.evaluation, OVERFLOW_TEXTS))
    bench = set_up(source, dataset, config, kind, ranges)
    plan_gates = _judge_plans(graphs, engines, config)
    artifacts, refused = _open_artifacts(bench, graphs, engines, with_openvino)
    qualities = [
        measure_quality(
            artifact.text,
            bench.expected,
            batch_size=config.batch_size,
            worst=config.worst_texts,
        )
        for artifact in artifacts
    ]
    references = open_references(bench, [artifact.text.engine.device for artifact in artifacts])
    timed = time_text(bench, references)
    timing = time_artifacts(
        source,
        references,
        artifacts,
        timed,
        config,
        kind=kind,
        fp32=fp32.path,
        published=published,
        dataset_sha256=bench.dataset_sha256,
    )
    return Validation(
        reference_device=bench.reference.device,
        reference_threads=torch.get_num_threads(),
        dataset=dataset.name,
        dataset_sha256=bench.dataset_sha256,
        reference_latency=timing.speed.reference_latency,
        reference_cold=timing.reference_cold,
        reference_search=search_reference(bench.expected.sought),
        baselines=timing.baselines,
        gpu_clocks=timing.gpu_clocks,
        artifacts=tuple(
            replace(result, gates=(*result.gates, *plan_gates.get(result.path, ())))
            for result in (
                *(
                    _result(artifact, quality, timing, i, bench, timed)
                    for i, (artifact, quality) in enumerate(zip(artifacts, qualities, strict=True))
                ),
                *refused,
            )
        ),
        proof=make_proof(bench.expected, config.check_texts, kind, config.gates)
        if config.check_texts
        else None,
    )


def _judge_plans(
    graphs: Graphs, engines: Sequence[Engine], config: ValidateConfig
) -> dict[Path, tuple[Gate, ...]]:
    """Hold what each plan runs to what the label says; that needs no GPU."""
    promise = promise_of(graphs.buildable.precision, graphs.quantization)
    return {
        engine.path: apply_plan_gates(read_layers(engine.layers), promise, config.gates.plan)
        for engine in engines
        if engine.layers is not None
    }


def _open_artifacts(
    bench: Bench, graphs: Graphs, engines: Sequence[Engine], with_openvino: bool
) -> tuple[list[Artifact], list[ArtifactResult]]:
    """Open what runs here, ``model.onnx`` first, and say why the rest does not."""
    kind = graphs.portable.precision
    cuda = kind not in (NumericType.int8, NumericType.fp8) and bench.reference.device == "cuda"

    def opened(name: str, path: Path, takes: Callable[[int, int], bool] | None) -> Artifact:
        encoder = open_encoder(name, path, bench.kind, cuda=cuda)
        text = text_encoder(bench.source, bench.tokenizer, encoder)
        return Artifact(path=path, text=text, takes=takes)

    model = graphs.portable.path
    artifacts = [opened("onnxruntime", model, None)]
    refused = []
    if with_openvino and kind is not NumericType.fp8:  # no CPU computes in fp8
        reason = missing()
        if reason is None:
            artifacts.append(opened("openvino", model, None))
        else:
            refused.append(ArtifactResult(name="openvino", path=model, reason=reason))
    if graphs.cuda is not None:
        if bench.reference.device == "cuda" and has_cuda():
            artifacts.append(opened(CUDA_NAME, graphs.cuda.path, None))
        else:
            reason = "ONNX Runtime has no CUDA device on this machine"
            refused.append(ArtifactResult(name=CUDA_NAME, path=graphs.cuda.path, reason=reason))
    for engine in engines:
        reason = obstacle(engine.runtime, engine.runtime_version, engine.target)
        if reason is None:
            artifacts.append(opened(engine.runtime, engine.path, engine.takes))
        else:
            log.info("%s: not executed: %s", engine.runtime, reason)
            refused.append(ArtifactResult(name=engine.runtime, path=engine.path, reason=reason))
    return artifacts, refused


def _result(
    artifact: Artifact,
    quality: Quality,
    timing: Timing,
    index: int,
    bench: Bench,
    timed: TimedText,
) -> ArtifactResult:
    speed, checks = timing.speed.artifacts[index], quality.agreement.checks
    evidence = Evidence(
        cosine_mean=quality.agreement.mean,
        cosine_p1=quality.agreement.p1,
        tasks={name: task.main.delta for name, task in quality.tasks.items()},
        finite=1 - checks.nan / quality.agreement.n,
        nonzero=1 - checks.zero / quality.agreement.n,
        invariance={"batch": quality.invariance.batch, "padding": quality.invariance.padding},
        speed=speed.over_baseline.get(Baseline.onnxruntime_fp32),
        search_recall={}
        if quality.search is None
        else {score.form: score.recall for score in quality.search.forms},
        published=_against_published(artifact, quality, speed, timing),
    )
    return ArtifactResult(
        name=artifact.name,
        path=artifact.path,
        device=artifact.text.engine.device,
        reference_device=speed.reference_device,
        agreement=quality.agreement,
        breakdown=quality.breakdown,
        invariance=quality.invariance,
        tasks=quality.tasks,
        search=quality.search,
        throughput=speed.throughput,
        with_tokenization=speed.with_tokenization,
        grid=speed.grid,
        latency=speed.latency,
        cold=timing.cold[index],
        gemms=_count_gemms(artifact, timed.batches[0]),
        kernels=_count_kernels(artifact, timed.batches[0]),
        gates=apply_gates(evidence, bench.kind, bench.config.gates),
    )


def _count_gemms(artifact: Artifact, batch: TokenBatch) -> dict[str, int] | None:
    """Count kernels where the profile is of what was measured: ONNX Runtime on the CPU."""
    profiled = artifact.name == "onnxruntime" and artifact.text.engine.device == "cpu"
    return count_gemms(artifact.path, batch) if profiled else None


def _count_kernels(artifact: Artifact, batch: TokenBatch) -> dict[str, Any] | None:
    """Read from a profile what ran on CUDA."""
    on_gpu = artifact.name in ("onnxruntime", CUDA_NAME) and artifact.text.engine.device == "cuda"
    return count_kernels(artifact.path, batch) if on_gpu else None


def _against_published(
    artifact: Artifact, quality: Quality, speed: ArtifactSpeed, timing: Timing
) -> Against | None:
    before = timing.predecessors.get(artifact.name)
    if before is None or speed.over_predecessor is None:
        return None
    return Against(
        cosine_mean=quality.agreement.mean - before.cosine_mean,
        tasks={
            name: task.main.artifact - before.tasks[name, task.metric]
            for name, task in quality.tasks.items()
            if (name, task.metric) in before.tasks
        },
        speed=speed.over_predecessor,
    )
