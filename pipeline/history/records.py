"""A night's cells as they are handed in, and as history keeps them."""

import hashlib
import json
import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from pipeline.errors import HistoryError

log = logging.getLogger(__name__)

State = Literal["published", "rejected", "error", "crashed", "timeout", "missing"]
Kind = Literal["regression", "step", "machine", "missing"]

STATES: tuple[State, ...] = ("published", "rejected", "error", "crashed", "timeout", "missing")


@dataclass(frozen=True, slots=True, kw_only=True)
class CellRecord:
    """What became of one cell of a night; ``night`` is a UTC ISO timestamp.

    ``bundle`` is what the cell published, ``previous`` what it replaced, ``report`` the content of
    its ``report.json``; None where there is none.
    """

    night: str
    cell: str
    model: str
    precision: str
    device: str
    state: str
    exit_code: int | None
    stage: str | None
    message: str | None
    seconds: float
    command: str
    bundle: Path | None
    previous: Path | None
    report: Mapping[str, Any] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What a night shows of a cell; with ``fails`` it fails the night.

    ``regression``: got worse, and that is confirmed. ``machine``: measured slower, but the bundle
    before is equally slow now. ``step``: a line stepped, or looks slower and could not be
    confirmed. ``missing``: not measured tonight. ``rule`` says which comparison found it,
    ``accepted`` when somebody took it as the new level.
    """

    cell: str
    metric: str
    kind: Kind
    text: str
    fails: bool
    artifact: str = ""
    rule: str = ""
    accepted: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """A number that was measured, with its 95 % interval where it has one."""

    value: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ArtifactEntry:
    """One artifact's figures by metric; None: not measured. ``reason``: why it was not executed."""

    name: str
    device: str | None
    reason: str | None
    figures: Mapping[str, Figure | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One cell of one night as history keeps it.

    ``bundle_sha256`` is of the bundle's manifest, ``config_sha256`` of the config in it.
    ``machine`` is what speeds compare on. ``page`` is the night's own ``report.html``, relative to
    the database.
    """

    night: str
    cell: str
    model: str
    precision: str
    device: str
    state: str
    exit_code: int | None = None
    stage: str | None = None
    message: str | None = None
    seconds: float = 0.0
    command: str = ""
    bundle_sha256: str | None = None
    config_sha256: str | None = None
    machine: str | None = None
    page: str | None = None
    versions: Mapping[str, str] | None = None
    stages: tuple[tuple[str, float], ...] = ()
    failed_gates: tuple[str, ...] = ()
    artifacts: tuple[ArtifactEntry, ...] = ()
    findings: tuple[Finding, ...] = ()

    def artifact(self, name: str) -> ArtifactEntry | None:
        """Return the artifact of that name if it was executed."""
        return next((a for a in self.artifacts if a.name == name and a.reason is None), None)

    def figure(self, artifact: str, metric: str) -> Figure | None:
        """Return what was measured, or None."""
        found = self.artifact(artifact)
        return None if found is None else found.figures.get(metric)


def utc(night: str) -> str:
    """Return an ISO timestamp as ``2026-11-21T02:00:00Z``, the form that sorts.

    Raises:
        HistoryError: it is none.
    """
    try:
        moment = datetime.fromisoformat(night)
    except (TypeError, ValueError) as error:
        raise HistoryError(
            f"night {night!r}: expected a UTC ISO timestamp such as 2026-11-21T02:00:00Z"
        ) from error
    moment = moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    return moment.isoformat(timespec="seconds").replace("+00:00", "Z")


def make_entry(record: CellRecord, page: str | None = None) -> Entry:
    """Return what history keeps of a cell; what its report does not hold is None.

    A report that cannot be read leaves the cell without figures, and a line in the log.

    Raises:
        HistoryError: a state or a night that does not exist.
    """
    if record.state not in STATES:
        raise HistoryError(
            f"cell {record.cell}: state {record.state!r}, expected one of {', '.join(STATES)}"
        )
    manifest = None if record.bundle is None else read_manifest(record.bundle)
    entry = Entry(
        night=utc(record.night),
        cell=record.cell,
        model=record.model,
        precision=record.precision,
        device=record.device,
        state=record.state,
        exit_code=record.exit_code,
        stage=record.stage,
        message=record.message,
        seconds=record.seconds,
        command=record.command,
        bundle_sha256=None if record.bundle is None else manifest_sha256(record.bundle),
        config_sha256=None if manifest is None else _sha256(manifest.get("config")),
        page=page,
    )
    try:
        return entry if record.report is None else _with_report(entry, record.report)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        log.warning("%s: its report cannot be read: %r", record.cell, error)
        return entry


def _with_report(entry: Entry, report: Mapping[str, Any]) -> Entry:
    environment = report.get("environment") or {}
    packages, gpu = environment.get("packages") or {}, environment.get("gpu") or {}
    versions = packages | ({"driver": gpu["driver"]} if gpu.get("driver") else {})
    return replace(
        entry,
        machine=_machine(report),
        versions={str(name): str(version) for name, version in versions.items()} or None,
        stages=tuple((str(s["name"]), float(s["seconds"])) for s in report.get("stages") or ()),
        failed_gates=tuple(str(gate) for gate in report.get("failed_gates") or ()),
        artifacts=tuple(_artifact(a, report) for a in report.get("artifacts") or ()),
    )


def manifest_sha256(bundle: Path) -> str | None:
    """Return the sha256 of a bundle's manifest, which names the bundle; None without one."""
    try:
        return hashlib.sha256((bundle / "manifest.json").read_bytes()).hexdigest()
    except OSError:
        return None


def read_manifest(bundle: Path) -> dict[str, Any] | None:
    """Return a bundle's manifest, or None where there is none to read."""
    try:
        manifest = json.loads((bundle / "manifest.json").read_text("utf-8"))
    except (OSError, ValueError):
        return None
    return manifest if isinstance(manifest, dict) else None


def _sha256(config: object) -> str | None:
    if config is None:
        return None
    return hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest()


def _machine(report: Mapping[str, Any]) -> str | None:
    """Name what the reference ran on: speeds of two nights compare only where it is the same."""
    environment, reference = report.get("environment"), report.get("reference")
    if not environment or not reference:
        return None
    gpu = environment.get("gpu")
    cpu = f"{environment.get('cpu')}, {reference.get('threads')} threads"
    return f"{gpu['name']}, {cpu}" if gpu else cpu


def _artifact(artifact: Mapping[str, Any], report: Mapping[str, Any]) -> ArtifactEntry:
    figures: dict[str, Figure | None] = {"bytes": _figure(artifact.get("bytes"))}
    if artifact.get("executed"):
        figures |= dict(_figures(artifact, report))
    reason = None if artifact.get("executed") else str(artifact.get("reason"))
    device = artifact.get("device")
    return ArtifactEntry(
        name=str(artifact["name"]),
        device=None if device is None else str(device),
        reason=reason,
        figures=figures,
    )


def _figures(
    artifact: Mapping[str, Any], report: Mapping[str, Any]
) -> Iterator[tuple[str, Figure | None]]:
    """Yield every figure that history keeps of an executed artifact."""
    agreement = artifact.get("agreement") or {}
    cosine = agreement.get("cosine") or {}
    ends = cosine.get("ci95") or {}
    for name in ("mean", "p1", "min"):
        yield f"cosine_{name}", _figure(cosine.get(name), ends.get(name))
    yield "neighbor_overlap_at_10", _figure(agreement.get("neighbor_overlap_at_10"))
    for task, score in (artifact.get("tasks") or {}).items():
        name = f"task.{task}.{score.get('metric')}"
        yield name, _figure(score.get("artifact"))
        yield f"{name}.delta", _figure(score.get("delta"), score.get("ci95"))
    throughput = artifact.get("throughput") or {}
    yield "speedup", _speedup(throughput.get("speedup"))
    yield "text_speedup", _speedup((throughput.get("with_tokenization") or {}).get("speedup"))
    for name in ("sentences_per_second", "reference_sentences_per_second"):
        yield name, _figure(throughput.get(name))
    latency = artifact.get("latency_ms") or {}
    reference = (report.get("reference") or {}).get("latency_ms") or {}
    for name in ("p50", "p95", "p99"):
        yield f"latency_{name}_ms", _figure(latency.get(name))
    yield "reference_latency_p50_ms", _figure(reference.get("p50"))
    yield "latency_speedup", _ratio(reference.get("p50"), latency.get("p50"))
    cold = artifact.get("cold") or {}
    for name in ("load_s", "first_encode_ms", "peak_memory_bytes", "gpu_memory_bytes"):
        yield name, _figure(cold.get(name))


def _figure(value: object, ends: Sequence[float] | None = None) -> Figure | None:
    number = _number(value)
    if number is None:
        return None
    low, high = (_number(ends[0]), _number(ends[1])) if ends else (None, None)
    return Figure(value=number, low=low, high=high)


def _speedup(data: Mapping[str, Any] | None) -> Figure | None:
    return None if not data else _figure(data.get("median"), data.get("ci95"))


def _ratio(reference: object, own: object) -> Figure | None:
    above, below = _number(reference), _number(own)
    return None if above is None or not below else Figure(value=above / below)


def _number(value: object) -> float | None:
    """Return a finite number, or None for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value)
