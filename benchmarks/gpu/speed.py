"""Agreement and speed of every side through the product's own benches, as plain JSON values."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch

from benchmarks.gpu.roofline import token_flops
from benchmarks.gpu.sides import REFERENCE, GpuSide
from pipeline.engines import Encoder
from pipeline.measure.quality.agreement import agreement
from pipeline.measure.speed.grid import GridCell, measure_grid
from pipeline.measure.speed.latency import measure_latencies
from pipeline.measure.speed.rounds import RoundLimits, encoder_pass, time_rounds
from pipeline.measure.speed.side import Side
from pipeline.measure.speed.throughput import throughput
from pipeline.text.tokens import TokenBatch, Tokenizer, TokenRow, by_length
from pipeline.vectors import FloatArray


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """The encoder's size, for operations per token."""

    linear_weights: int
    layers: int
    hidden: int

    def tflops(self, tokens_per_second: float, sequence: int) -> float:
        """Return the TFLOP/s that so many tokens a second in texts of ``sequence`` stand for."""
        flops = sum(token_flops(self.linear_weights, self.layers, self.hidden, sequence))
        return tokens_per_second * flops / 1e12


def work_of(model: Any) -> Work:
    """Count a loaded Sentence Transformer's encoder; a pooler that nobody reads is left out."""
    encoder = model[0].auto_model
    linear = sum(
        module.weight.numel()
        for name, module in encoder.named_modules()
        if isinstance(module, torch.nn.Linear) and "pooler" not in name
    )
    config = encoder.config
    return Work(
        linear_weights=linear,
        layers=int(config.num_hidden_layers),
        hidden=int(config.hidden_size),
    )


def measure_agreement(
    sides: Mapping[str, GpuSide],
    tokenizer: Tokenizer,
    rows: Sequence[TokenRow],
    batch_size: int,
) -> dict[str, Any]:
    """Return each side's cosine to the reference, which ran on the same device."""
    batches = by_length(rows, batch_size)
    vectors = {name: _embed(side.encoder, tokenizer, rows, batches) for name, side in sides.items()}
    found: dict[str, Any] = {}
    for name in sides:
        if name != REFERENCE:
            close = agreement(vectors[REFERENCE], vectors[name])
            found[name] = {"n": close.n, "mean": close.mean, "p1": close.p1, "min": close.min}
    return found


def _embed(
    encoder: Encoder,
    tokenizer: Tokenizer,
    rows: Sequence[TokenRow],
    batches: Sequence[Sequence[int]],
) -> FloatArray:
    parts = [encoder.encode(tokenizer.pad([rows[i] for i in batch])) for batch in batches]
    embeddings = np.empty((len(rows), parts[0].shape[1]), dtype=np.float32)
    for batch, part in zip(batches, parts, strict=True):
        embeddings[list(batch)] = part
    return embeddings


def measure_latency(
    sides: Mapping[str, GpuSide], singles: Sequence[TokenBatch], *, runs: int, budget_s: float
) -> dict[str, Any]:
    """Return milliseconds of one sentence at a time."""
    encoders = [side.encoder for side in sides.values()]
    found = measure_latencies(encoders, singles, runs=runs, budget_s=budget_s)
    return {name: asdict(latency) for name, latency in zip(sides, found, strict=True)}


def measure_throughput(
    sides: Mapping[str, GpuSide], batches: Sequence[TokenBatch], limits: RoundLimits
) -> dict[str, Any]:
    """Return sentences and tokens per second over the same batches, and ratios of the rounds."""
    times = time_rounds([encoder_pass(side.encoder, batches) for side in sides.values()], limits)
    found = {}
    for i, name in enumerate(sides):
        side = throughput(times, i, batches)
        found[name] = {
            "sentences_per_second": side.sentences_per_second,
            "tokens_per_second": side.tokens_per_second,
            "speedup": {"median": side.speedup.median, "ci95": list(side.speedup.ci95)},
            "rounds": side.rounds,
        }
    return found


def measure_cells(
    sides: Mapping[str, GpuSide],
    rows: Sequence[TokenRow],
    shapes: Sequence[tuple[int, int]],
    work: Work,
    ceilings: Mapping[str, Any],
    *,
    narrow: float,
    budget_s: float,
) -> dict[str, Any]:
    """Return each side's grid: milliseconds, tokens and TFLOP/s, and their share of the ceiling."""
    others = {name: side for name, side in sides.items() if name != REFERENCE}
    grids = measure_grid(
        sides[REFERENCE].encoder,
        [Side(encoder=side.encoder, takes=side.takes) for side in others.values()],
        rows,
        shapes,
        narrow=narrow,
        budget_s=budget_s,
    )
    found = {
        name: [_cell(cell, work, _ceiling(ceilings, side.kind)) for cell in cells]
        for (name, side), cells in zip(others.items(), grids, strict=True)
    }
    timed = [cell for cells in grids for cell in cells if cell.timing is not None]
    fp32 = {(cell.batch, cell.sequence): cell.timing.reference_ms for cell in timed if cell.timing}
    found[REFERENCE] = [
        _shown(batch, sequence, ms, work, _ceiling(ceilings, "fp32"))
        for (batch, sequence), ms in fp32.items()
    ]
    return found


def _ceiling(ceilings: Mapping[str, Any], kind: str) -> float | None:
    tflops = ceilings.get(kind, {}).get("tflops")
    return None if tflops is None else float(tflops)


def _cell(cell: GridCell, work: Work, ceiling: float | None) -> dict[str, Any]:
    if cell.timing is None:
        return {"batch": cell.batch, "sequence": cell.sequence, "skipped": cell.skipped}
    shown = _shown(cell.batch, cell.sequence, cell.timing.ms, work, ceiling)
    speedup = cell.timing.speedup
    return shown | {"speedup": {"median": speedup.median, "ci95": list(speedup.ci95)}}


def _shown(
    batch: int, sequence: int, ms: float, work: Work, ceiling: float | None
) -> dict[str, Any]:
    tokens_per_second = batch * sequence / ms * 1e3
    tflops = work.tflops(tokens_per_second, sequence)
    return {
        "batch": batch,
        "sequence": sequence,
        "ms": ms,
        "tokens_per_second": tokens_per_second,
        "tflops": tflops,
        "of_ceiling": None if ceiling is None else tflops / ceiling,
    }
