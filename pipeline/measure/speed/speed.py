"""Time everything within one budget: rounds of all sides, text to vectors, latency, grid."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pipeline.config import ValidateConfig
from pipeline.engines import Encoder
from pipeline.measure.speed.grid import GridCell, grid_shapes, measure_grid
from pipeline.measure.speed.intervals import Speedup, compare
from pipeline.measure.speed.latency import Latency, measure_latencies
from pipeline.measure.speed.rounds import Pass, RoundLimits, encoder_pass, time_rounds
from pipeline.measure.speed.side import Side
from pipeline.measure.speed.throughput import (
    TextThroughput,
    Throughput,
    text_throughput,
    throughput,
)
from pipeline.text.tokens import TokenBatch, TokenRow

ROUNDS_SHARE, TEXT_SHARE, LATENCY_SHARE = 0.5, 0.25, 0.2
"""Shares of what is left of the budget when a part begins; the grid, the last, has all of it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TimedText:
    """The same text in every form: as it is, as tokens, batched by length, one by one."""

    texts: Sequence[str]
    rows: Sequence[TokenRow]
    batches: Sequence[TokenBatch]
    singles: Sequence[TokenBatch]
    max_length: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ArtifactSpeed:
    """One artifact's timing, and its ratios to the baselines and to its predecessor."""

    throughput: Throughput
    with_tokenization: TextThroughput
    latency: Latency
    grid: Sequence[GridCell]
    over_baseline: Mapping[str, Speedup]
    over_predecessor: Speedup | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Speed:
    """The timing of every artifact, of the baselines and of the reference's single sentences."""

    artifacts: Sequence[ArtifactSpeed]
    baselines: Mapping[str, Throughput]
    reference_latency: Latency


def measure_speed(
    reference: Side,
    artifacts: Sequence[Side],
    baselines: Mapping[str, Encoder],
    text: TimedText,
    config: ValidateConfig,
    *,
    budget_s: float,
) -> Speed:
    """Time everything; all ratios of throughput come from the same rounds."""
    deadline = time.perf_counter() + budget_s

    def share(part: float) -> float:
        return part * max(0.0, deadline - time.perf_counter())

    sides = [reference, *artifacts]
    encoders = [side.encoder for side in sides]
    predecessors = [
        artifact.predecessor for artifact in artifacts if artifact.predecessor is not None
    ]
    everyone = [*encoders, *baselines.values(), *predecessors]
    times = time_rounds(
        [encoder_pass(encoder, text.batches) for encoder in everyone],
        _limits(config, share(ROUNDS_SHARE)),
    )
    column = {id(encoder): i for i, encoder in enumerate(everyone)}
    text_times = time_rounds(
        [_text_pass(side, text.texts) for side in sides],
        _limits(config, share(TEXT_SHARE)),
    )
    latencies = measure_latencies(
        encoders, text.singles, runs=config.latency_runs, budget_s=share(LATENCY_SHARE)
    )
    grids = measure_grid(
        reference.encoder,
        artifacts,
        text.rows,
        grid_shapes(config.grid.batch, config.grid.sequence, text.max_length),
        narrow=config.narrow,
        budget_s=share(1),
    )

    def over(rival: Encoder, artifact: Side) -> Speedup:
        return compare(times[:, column[id(rival)]], times[:, column[id(artifact.encoder)]])

    return Speed(
        artifacts=[
            ArtifactSpeed(
                throughput=throughput(times, i, text.batches),
                with_tokenization=text_throughput(text_times, i, len(text.texts)),
                latency=latencies[i],
                grid=grids[i - 1],
                over_baseline={name: over(rival, artifact) for name, rival in baselines.items()},
                over_predecessor=over(artifact.predecessor, artifact)
                if artifact.predecessor
                else None,
            )
            for i, artifact in enumerate(artifacts, start=1)
        ],
        baselines={
            name: throughput(times, column[id(rival)], text.batches)
            for name, rival in baselines.items()
        },
        reference_latency=latencies[0],
    )


def _limits(config: ValidateConfig, budget_s: float) -> RoundLimits:
    return RoundLimits(
        min_rounds=config.min_rounds,
        max_rounds=config.max_rounds,
        narrow=config.narrow,
        budget_s=budget_s,
    )


def _text_pass(side: Side, texts: Sequence[str]) -> Pass:
    encode = side.encode_texts
    assert encode is not None
    return Pass(work=lambda: encode(texts), wake=lambda: encode(texts[:1]))
