"""Nights as the runner hands them in; the numbers are made up."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from example_report import executed, int8, plan

from pipeline.history.keep.records import CellRecord

FIRST = datetime(2026, 8, 23, 2, tzinfo=UTC)


def night(number: int) -> str:
    """Return the timestamp of the night of that number."""
    return (FIRST + timedelta(days=number)).isoformat(timespec="seconds").replace("+00:00", "Z")


def report(
    speeds: dict[str, float], cosine: float = 0.9995, *, cpu: str = "AMD EPYC", **more: Any
) -> dict[str, Any]:
    """Return a report whose artifacts have these speed-ups, with intervals of 3 %."""
    data: dict[str, Any] = int8() | more
    data["environment"] = data["environment"] | {"cpu": cpu}
    data["artifacts"] = [_artifact(name, speed, cosine) for name, speed in speeds.items()] + [
        plan()
    ]
    return data


def _artifact(name: str, speed: float, cosine: float) -> dict[str, Any]:
    data: dict[str, Any] = executed(name, speed=speed)
    data["throughput"]["speedup"]["ci95"] = [0.97 * speed, 1.03 * speed]
    data["agreement"]["cosine"]["mean"] = cosine
    data["latency_ms"]["p50"] = 6.12 / speed
    return data


def record(
    number: int,
    data: dict[str, Any] | None,
    *,
    model: str = "minilm",
    precision: str = "int8",
    device: str = "cpu",
    state: str = "published",
    bundle: Path | None = None,
    previous: Path | None = None,
    **more: Any,
) -> CellRecord:
    """Return a cell's record of a night."""
    values: dict[str, Any] = {
        "exit_code": {"published": 0, "rejected": 2, "error": 1}.get(state),
        "stage": None if state == "published" else "validate",
        "message": None,
        "seconds": 93.0,
    }
    return CellRecord(
        night=night(number),
        cell=f"{model}-{precision}-{device}",
        model=model,
        precision=precision,
        device=device,
        state=state,
        command=f"python -m pipeline model={model} precision={precision}",
        bundle=bundle,
        previous=previous,
        report=data,
        **values | more,
    )


def steady(numbers: Sequence[int], speed: float = 3.0, swing: float = 0.01) -> list[float]:
    """Return speed-ups that go up and down by ``swing`` from night to night."""
    return [speed * (1 + swing * (-1) ** number) for number in numbers]
