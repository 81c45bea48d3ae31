"""Write the parts of ``report.json`` that are about speed."""

from typing import Any

from pipeline.measure.results import ArtifactResult, BaselineResult
from pipeline.measure.speed.cold import Cold
from pipeline.measure.speed.grid import GridCell
from pipeline.measure.speed.intervals import Speedup
from pipeline.measure.speed.latency import Latency
from pipeline.measure.speed.throughput import TextThroughput


def throughput_data(result: ArtifactResult) -> dict[str, Any]:
    """Return ``throughput`` of an artifact that was executed."""
    speed = result.throughput
    assert speed is not None
    return {
        "sentences_per_second": speed.sentences_per_second,
        "reference_sentences_per_second": speed.reference_sentences_per_second,
        "reference_device": result.reference_device or result.device,
        "tokens_per_second": speed.tokens_per_second,
        "speedup": speedup_data(speed.speedup),
        "rounds": speed.rounds,
        "texts": speed.texts,
        "mean_tokens": speed.mean_tokens,
        "with_tokenization": _with_tokenization(result.with_tokenization),
        "grid": [_cell(cell) for cell in result.grid],
    }


def speedup_data(speedup: Speedup) -> dict[str, Any]:
    """Return a ratio with its interval and what the interval says."""
    return {
        "median": speedup.median,
        "ci95": list(speedup.ci95),
        "verdict": speedup.verdict,
    }


def latency_data(latency: Latency) -> dict[str, Any]:
    """Return ``latency_ms``; a percentile that the runs do not carry is None."""
    return {
        "batch": 1,
        "p50": latency.p50,
        "p95": latency.p95,
        "p99": latency.p99,
        "n": latency.n,
    }


def cold_data(cold: Cold | None) -> dict[str, Any] | None:
    """Return ``cold``; GPU memory only where a GPU was asked."""
    if cold is None:
        return None
    data: dict[str, Any] = {
        "load_s": cold.load_s,
        "first_encode_ms": cold.first_encode_ms,
        "peak_memory_bytes": cold.peak_memory_bytes,
    }
    return (
        data
        if cold.gpu_memory_bytes is None
        else data | {"gpu_memory_bytes": cold.gpu_memory_bytes}
    )


def baseline_data(baseline: BaselineResult) -> dict[str, Any]:
    """Return an entry of ``baselines``."""
    if baseline.reason is not None:
        return {"name": baseline.name, "executed": False, "reason": baseline.reason}
    assert baseline.speedup is not None
    return {
        "name": baseline.name,
        "executed": True,
        "device": baseline.device,
        "sentences_per_second": baseline.sentences_per_second,
        "speedup": speedup_data(baseline.speedup),
    }


def _with_tokenization(speed: TextThroughput | None) -> dict[str, Any] | None:
    if speed is None:
        return None
    return {
        "sentences_per_second": speed.sentences_per_second,
        "reference_sentences_per_second": speed.reference_sentences_per_second,
        "speedup": speedup_data(speed.speedup),
        "rounds": speed.rounds,
    }


def _cell(cell: GridCell) -> dict[str, Any]:
    shape = {"batch": cell.batch, "sequence": cell.sequence}
    if cell.timing is None:
        return shape | {"skipped": cell.skipped}
    return shape | {
        "ms": cell.timing.ms,
        "reference_ms": cell.timing.reference_ms,
        "tokens_per_second": cell.timing.tokens_per_second,
        "speedup": speedup_data(cell.timing.speedup),
        "rounds": cell.timing.rounds,
    }
