"""Find how fast a candidate is on the target: as it was measured there, or else as predicted."""

from collections.abc import Sequence
from typing import Any

from pipeline.engines.layers.predict import GpuPeaks, count_shapes, predict_texts_ms
from pipeline.engines.layers.records import read_layers
from pipeline.flow.choice.target import Target
from pipeline.flow.choice.tried import Speed
from pipeline.flow.placing import Candidate
from pipeline.text.source_text import open_tokenizer, tokenize

BATCH = 32
PREDICTED_WITHIN = 0.01
"""Predictions nearer to each other than this, about, are called equal, as measured speeds are."""


def speed_of(candidate: Candidate, target: Target, texts: Sequence[str]) -> Speed | str:
    """Return a candidate's speed on the target, or why there is none.

    What is predicted is predicted for batches of 32 of ``texts``.
    """
    if target.peaks is not None:
        return _predicted(candidate, target.peaks, texts)
    return _measured(candidate, target)


def _measured(candidate: Candidate, target: Target) -> Speed | str:
    """Return the speed of the artifact that ran fastest there, over PyTorch fp32's."""
    ran = [
        artifact
        for artifact in candidate.report.data["artifacts"]
        if artifact["executed"]
        and artifact["device"] == target.device
        and "emulated" not in artifact
    ]
    if not ran:
        return f"nothing of it ran on {target.label}"
    best = max(ran, key=lambda artifact: artifact["throughput"]["speedup"]["median"])
    speedup: dict[str, Any] = best["throughput"]["speedup"]
    low, high = speedup["ci95"]
    return Speed(
        rate=speedup["median"],
        low=low,
        high=high,
        data={"measured": True, "artifact": best["name"], "speedup": dict(speedup)},
    )


def _predicted(candidate: Candidate, gpu: GpuPeaks, texts: Sequence[str]) -> Speed | str:
    """Return texts per second by the kernels of the fastest plan."""
    rows = tokenize(candidate.source, open_tokenizer(candidate.source), texts)
    batch = min(BATCH, candidate.config.engine.max_batch)
    shapes = count_shapes(rows, batch)
    times = {
        engine.runtime: time
        for engine in candidate.engines
        if engine.layers is not None
        and (time := predict_texts_ms(read_layers(engine.layers), engine.profiles, gpu, shapes))
    }
    if not times:
        listed = any(engine.layers is not None for engine in candidate.engines)
        return (
            f"not predicted: no data sheet figure of {gpu.label} for a type that its kernels "
            "compute in"
            if listed
            else "not predicted: there is no engine whose kernels are known"
        )
    runtime = min(times, key=lambda name: times[name])
    rate = 1e6 / times[runtime]
    return Speed(
        rate=rate,
        low=rate / (1 + PREDICTED_WITHIN),
        high=rate * (1 + PREDICTED_WITHIN),
        data={
            "measured": False,
            "artifact": runtime,
            "predicted_ms_a_thousand_texts": times[runtime],
        },
    )
