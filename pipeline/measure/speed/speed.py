"""Time everything within one budget: rounds of all sides, text to vectors, latency, grid."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pipeline.config import ValidateConfig
from pipeline.engines import Encoder
from pipeline.measure.speed.devices import own_device
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

Baselines = Mapping[tuple[str, str], Encoder]
"""Baselines by name and device."""


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
    """One artifact's timing, and its ratios to its device's baselines and to its predecessor."""

    reference_device: str
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
    baselines: Mapping[tuple[str, str], Throughput]
    reference_latency: Latency


def measure_speed(
    references: Mapping[str, Side],
    artifacts: Sequence[Side],
    baselines: Baselines,
    text: TimedText,
    config: ValidateConfig,
    *,
    budget_s: float,
) -> Speed:
    """Time everything; all ratios of throughput come from the same rounds.

    ``references`` are by device, the main one first; what has none on its own device is held
    against that.
    """
    deadline = time.perf_counter() + budget_s

    def share(part: float) -> float:
        return part * max(0.0, deadline - time.perf_counter())

    main = next(iter(references))
    sides = [*references.values(), *artifacts]
    encoders = [side.encoder for side in sides]
    predecessors = [
        artifact.predecessor for artifact in artifacts if artifact.predecessor is not None
    ]
    everyone = [*encoders, *baselines.values(), *predecessors]
    column = {id(encoder): i for i, encoder in enumerate(everyone)}

    def own(encoder: Encoder) -> str:
        return own_device(encoder.device, main, references)

    against = [column[id(references[own(encoder)].encoder)] for encoder in everyone]
    times = time_rounds(
        [encoder_pass(encoder, text.batches) for encoder in everyone],
        _limits(config, share(ROUNDS_SHARE)),
        against=against,
    )
    text_times = time_rounds(
        [_text_pass(side, text.texts) for side in sides],
        _limits(config, share(TEXT_SHARE)),
        against=against[: len(sides)],
    )
    latencies = measure_latencies(
        encoders, text.singles, runs=config.latency_runs, budget_s=share(LATENCY_SHARE)
    )
    shapes = grid_shapes(config.grid.batch, config.grid.sequence, text.max_length)
    grids: dict[int, list[GridCell]] = {}
    devices = list(dict.fromkeys(own(side.encoder) for side in artifacts))
    for done, device in enumerate(devices):
        members = [i for i, side in enumerate(artifacts) if own(side.encoder) == device]
        cells = measure_grid(
            references[device].encoder,
            [artifacts[i] for i in members],
            text.rows,
            shapes,
            narrow=config.narrow,
            budget_s=share(1 / (len(devices) - done)),
        )
        grids.update(zip(members, cells, strict=True))

    def over(rival: Encoder, artifact: Side) -> Speedup:
        return compare(times[:, column[id(rival)]], times[:, column[id(artifact.encoder)]])

    return Speed(
        artifacts=[
            ArtifactSpeed(
                reference_device=own(artifact.encoder),
                throughput=throughput(times, i, text.batches, against=against[i]),
                with_tokenization=text_throughput(
                    text_times, i, len(text.texts), against=against[i]
                ),
                latency=latencies[i],
                grid=grids[i - len(references)],
                over_baseline={
                    name: over(rival, artifact)
                    for (name, _), rival in baselines.items()
                    if own(rival) == own(artifact.encoder)
                },
                over_predecessor=over(artifact.predecessor, artifact)
                if artifact.predecessor
                else None,
            )
            for i, artifact in enumerate(artifacts, start=len(references))
        ],
        baselines={
            key: throughput(
                times, column[id(rival)], text.batches, against=against[column[id(rival)]]
            )
            for key, rival in baselines.items()
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
