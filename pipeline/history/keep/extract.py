"""Take what history keeps of a cell from its record, its report and its bundle's manifest."""

import hashlib
import json
import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from pipeline.bundle.manifest import MANIFEST, find_manifest
from pipeline.contracts import sha256_file
from pipeline.errors import HistoryError
from pipeline.history.keep.records import STATES, ArtifactEntry, Entry, Figure, utc
from pipeline.history.keep.status import Status

log = logging.getLogger(__name__)


def make_entry(status: Status, night: str, page: str | None = None) -> Entry:
    """Return what history keeps of a cell; what its report does not hold is None.

    A report that cannot be read leaves the cell without figures, and a line in the log.

    Raises:
        HistoryError: the cell has not ended, or ``night`` is no timestamp.
    """
    if status.state not in STATES:
        raise HistoryError(
            f"cell {status.cell}: state {str(status.state)!r}, expected one of {', '.join(STATES)}"
        )
    bundle = None if status.bundle is None else Path(status.bundle)
    manifest = {} if bundle is None else find_manifest(bundle)
    entry = Entry(
        night=utc(night),
        cell=status.cell,
        model=status.model,
        precision=status.precision,
        device=status.device,
        state=str(status.state),
        exit_code=status.exit_code,
        stage=status.stage,
        message=status.message,
        seconds=status.seconds,
        command=status.command,
        bundle_sha256=None if bundle is None else manifest_sha256(bundle),
        config_sha256=_sha256(manifest.get("config")),
        target=status.target,
        page=page,
    )
    report = status.report()
    try:
        return entry if report is None else _with_report(entry, report)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        log.warning("%s: its report cannot be read: %r", status.cell, error)
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
        return sha256_file(bundle / MANIFEST)
    except OSError:
        return None


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
