"""validate: run every artifact that can run here against PyTorch fp32, and judge it."""

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.bench.profile import count_gemms
from pipeline.bench.quality import Expected, expect, measure_quality
from pipeline.bench.timing import compare_throughput, measure_latency
from pipeline.config import NumericType, ValidateConfig
from pipeline.contracts import (
    ArtifactResult,
    Engine,
    Gate,
    Graphs,
    SourceModel,
    Validation,
)
from pipeline.datasets import MIN_EVALUATION, Dataset, spread
from pipeline.engines import Encoder
from pipeline.engines.onnxruntime import OnnxRuntimeEncoder
from pipeline.engines.tensorrt import TensorRTEncoder, obstacle
from pipeline.engines.torch import TorchEncoder
from pipeline.errors import ConfigError, MeasureError
from pipeline.runtime import TextEncoder
from pipeline.tokens import TokenBatch, Tokenizer, by_length

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Bench:
    """The text, the reference and its results, computed once for all artifacts."""

    source: SourceModel
    tokenizer: Tokenizer
    config: ValidateConfig
    threshold: float
    reference: TorchEncoder
    expected: Expected
    batches: Sequence[TokenBatch]
    singles: Sequence[TokenBatch]


def validate(
    source: SourceModel,
    graphs: Graphs,
    engines: Sequence[Engine],
    dataset: Dataset,
    config: ValidateConfig,
) -> Validation:
    """Measure agreement, task scores and speed of ``model.onnx`` and of each engine.

    An engine that cannot run on this machine is reported with the reason and no number.

    Raises:
        ConfigError: a setting out of range, or no gate for this numeric type.
        MeasureError: an artifact that should run does not.
    """
    import torch

    kind = graphs.portable.precision
    check_validate(config, kind)
    bench = _set_up(source, dataset, config, threshold=config.gates.cosine_mean[kind.value])
    cuda = kind is not NumericType.int8 and bench.reference.device == "cuda"
    results = [
        _measure(bench, OnnxRuntimeEncoder(graphs.portable.path, cuda=cuda), graphs.portable.path)
    ]
    for engine in engines:
        reason = obstacle(engine.runtime, engine.runtime_version, engine.target)
        if reason is None:
            encoder = TensorRTEncoder(engine.path, engine.runtime)
            results.append(_measure(bench, encoder, engine.path))
        else:
            log.info("%s: not executed: %s", engine.runtime, reason)
            results.append(ArtifactResult(name=engine.runtime, path=engine.path, reason=reason))
    return Validation(
        reference_device=bench.reference.device,
        reference_threads=torch.get_num_threads(),
        dataset=dataset.name,
        artifacts=tuple(results),
    )


def check_validate(config: ValidateConfig, kind: NumericType) -> None:
    """Refuse settings out of range before anything slow runs.

    Raises:
        ConfigError: see the messages.
    """
    for name, least in (
        ("batch_size", 1),
        ("max_sentences", MIN_EVALUATION),
        ("timing_sentences", 1),
        ("min_rounds", 2),
        ("latency_runs", 1),
        ("worst_texts", 0),
    ):
        if getattr(config, name) < least:
            raise ConfigError(f"validate.{name}={getattr(config, name)}: expected at least {least}")
    if config.max_rounds < config.min_rounds:
        raise ConfigError(
            f"validate.max_rounds={config.max_rounds}: expected at least "
            f"validate.min_rounds={config.min_rounds}"
        )
    threshold = config.gates.cosine_mean.get(kind.value)
    if threshold is None or math.isnan(threshold):
        raise ConfigError(
            f"validate.gates.cosine_mean.{kind}={threshold}: expected a number; set it to -1 to "
            "let everything pass"
        )


def _check_tokenizer(tokenizer: Tokenizer, reference: TorchEncoder, texts: Sequence[str]) -> None:
    """Compare the bundle's token ids with the Sentence Transformer's own.

    Raises:
        MeasureError: they differ.
    """
    for text, row in zip(texts, tokenizer.rows(texts), strict=True):
        ids = reference.model.tokenizer(
            text, truncation="longest_first", max_length=tokenizer.max_length
        )["input_ids"]
        if tuple(ids) != row.ids:
            raise MeasureError(
                f"tokenizer.json gives other token ids than the Sentence Transformer for {text!r}; "
                "save the model again with SentenceTransformer.save()"
            )


def _set_up(
    source: SourceModel, dataset: Dataset, config: ValidateConfig, *, threshold: float
) -> _Bench:
    """Load the reference and compute everything artifacts are compared with."""
    tokenizer = Tokenizer(source.assets, max_length=source.max_length)
    reference = TorchEncoder(source, device=config.device)
    _check_tokenizer(tokenizer, reference, dataset.evaluation[:64])
    expected = expect(
        _text_encoder(source, tokenizer, reference),
        spread(dataset.evaluation, config.max_sentences),
        dataset,
        prefix=source.prefix,
        batch_size=config.batch_size,
    )
    timed = spread(expected.rows, config.timing_sentences)
    return _Bench(
        source=source,
        tokenizer=tokenizer,
        config=config,
        threshold=threshold,
        reference=reference,
        expected=expected,
        batches=[
            tokenizer.pad([timed[i] for i in indices])
            for indices in by_length(timed, config.batch_size)
        ],
        singles=[tokenizer.pad([row]) for row in spread(expected.rows, config.latency_runs)],
    )


def _measure(bench: _Bench, encoder: Encoder, path: Path) -> ArtifactResult:
    config, name = bench.config, encoder.name
    quality = measure_quality(
        _text_encoder(bench.source, bench.tokenizer, encoder),
        bench.expected,
        batch_size=config.batch_size,
        worst=config.worst_texts,
    )
    throughput = compare_throughput(
        bench.reference,
        encoder,
        bench.batches,
        min_rounds=config.min_rounds,
        max_rounds=config.max_rounds,
        budget_s=config.timing_budget_s,
    )
    log.info("%s: %.2fx PyTorch fp32 on %s", name, throughput.speedup, encoder.device)
    return ArtifactResult(
        name=name,
        path=path,
        device=encoder.device,
        agreement=quality.agreement,
        breakdown=quality.breakdown,
        invariance=quality.invariance,
        tasks=quality.tasks,
        throughput=throughput,
        latency=measure_latency(encoder, bench.singles, runs=config.latency_runs),
        gemms=_profiled_gemms(encoder, path, bench.batches[0]),
        gates=(
            Gate(name="cosine.mean", threshold=bench.threshold, observed=quality.agreement.mean),
        ),
    )


def _profiled_gemms(encoder: Encoder, path: Path, batch: TokenBatch) -> dict[str, int] | None:
    """Count kernels where the profile is of what was measured: ONNX Runtime on the CPU."""
    profiled = encoder.name == "onnxruntime" and encoder.device == "cpu"
    return count_gemms(path, batch) if profiled else None


def _text_encoder(source: SourceModel, tokenizer: Tokenizer, encoder: Encoder) -> TextEncoder:
    return TextEncoder(
        tokenizer,
        encoder,
        dimension=source.dimension,
        prompts=dict(source.prompts),
        default_prompt=source.default_prompt,
    )
