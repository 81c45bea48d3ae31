"""Nights as the runner hands them in; the numbers are made up."""

import json
import tempfile
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from example_report import executed, int8, plan

from pipeline.history.keep.extract import make_entry
from pipeline.history.keep.records import Entry
from pipeline.history.keep.status import State, Status

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


def status(
    directory: Path,
    data: dict[str, Any] | None,
    *,
    model: str = "minilm",
    precision: str = "int8",
    device: str = "cpu",
    state: State = State.published,
    bundle: Path | None = None,
    previous: Path | None = None,
    **more: Any,
) -> Status:
    """Return what came of a cell, its report written into ``directory``."""
    cell = f"{model}-{precision}-{device}"
    reports = {}
    if data is not None:
        directory.mkdir(parents=True, exist_ok=True)
        path = directory / f"{cell}.json"
        path.write_text(json.dumps(data))
        reports["report.json"] = str(path)
    values: dict[str, Any] = {
        "exit_code": {State.published: 0, State.rejected: 2, State.error: 1}.get(state),
        "stage": None if state is State.published else "validate",
        "message": None,
        "seconds": 93.0,
    }
    return Status(
        cell=cell,
        model=model,
        precision=precision,
        device=device,
        state=state,
        command=f"python -m pipeline model={model} precision={precision}",
        bundle=None if bundle is None else str(bundle),
        previous=None if previous is None else str(previous),
        reports=reports,
        **values | more,
    )


def kept(number: int, data: dict[str, Any] | None, **more: Any) -> Entry:
    """Return what history keeps of a cell of the night of that number."""
    with tempfile.TemporaryDirectory() as directory:
        return make_entry(status(Path(directory), data, **more), night(number))


def steady(numbers: Sequence[int], speed: float = 3.0, swing: float = 0.01) -> list[float]:
    """Return speed-ups that go up and down by ``swing`` from night to night."""
    return [speed * (1 + swing * (-1) ** number) for number in numbers]
