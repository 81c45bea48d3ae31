"""Compare bundles side by side: which can be, which is slower and worse than another."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pipeline.report import numbers
from pipeline.report.published import difference
from pipeline.report.table import rows

_SAME = 1e-5
"""Mean cosines that differ by less are the same quality."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One artifact of one bundle: its columns as text, and what has to be said about it."""

    bundle: Path
    columns: Mapping[str, str]
    report: Mapping[str, Any]
    artifact: Mapping[str, Any]
    created: str | None = None
    notes: tuple[str, ...] = field(default=())
    comparable: bool = True
    dominated: bool = False

    @property
    def name(self) -> str:
        """Return model, precision and artifact."""
        return f"{self.report['model']} {self.report['precision']} {self.artifact['name']}"


def compare(
    bundles: Sequence[tuple[Path, Mapping[str, Any], Mapping[str, Any]]],
) -> list[Line]:
    """Return a line for each artifact of the bundles: path, report and manifest (may be empty).

    Most of the reports can be compared with one another; what cannot with these says why and comes
    last. The fastest comes first, and what was not executed behind what was.
    """
    base = _base([report for _, report, _ in bundles])
    lines = []
    for path, report, manifest in bundles:
        reason = difference(base, report)
        lines += [
            Line(
                bundle=path,
                columns=columns,
                report=report,
                artifact=artifact,
                created=manifest.get("created"),
                notes=_notes(base, report, reason),
                comparable=reason is None,
            )
            for columns, artifact in zip(rows(report), report["artifacts"], strict=True)
        ]
    marked = [_mark(line, lines) for line in lines]
    return sorted(marked, key=_order)


def _base(reports: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    """Return the report that most others can be compared with; of equals the first."""
    return max(reports, key=lambda r: sum(difference(r, other) is None for other in reports))


def _notes(
    base: Mapping[str, Any], report: Mapping[str, Any], reason: str | None
) -> tuple[str, ...]:
    notes = []
    if report["status"] == "unvalidated":
        notes.append("validation was turned off: nothing was measured")
    elif report["status"] != "passed":
        notes.append("rejected: " + "; ".join(report["failed_gates"]))
    if reason is not None:
        notes.append(f"cannot be compared with the others: {reason}{_seen(base, report, reason)}")
    return tuple(notes)


def _seen(base: Mapping[str, Any], report: Mapping[str, Any], reason: str) -> str:
    """Return what differs, where a reader could not tell from the reason."""
    if reason == "another machine":
        return f" ({_machine(report)}; the others: {_machine(base)})"
    if reason == "another data set":
        return f" ({report['dataset']}; the others: {base['dataset']})"
    return ""


def _machine(report: Mapping[str, Any]) -> str:
    environment, reference = report["environment"], report["reference"]
    gpu = environment["gpu"]
    threads = "" if reference["threads"] is None else f", {reference['threads']} threads"
    return f"{gpu['name'] if gpu else environment['cpu']}{threads}"


def _order(line: Line) -> tuple[bool, bool, float]:
    executed = line.artifact["executed"]
    speed = line.artifact["throughput"]["speedup"]["median"] if executed else 0.0
    return (not line.comparable, not executed, -speed)


def _mark(line: Line, lines: Sequence[Line]) -> Line:
    """Say which line is faster beyond doubt, and no worse in anything else, where one is."""
    for other in lines:
        if _dominates(other, line):
            quality = "worse" if _mean(other) - _mean(line) > _SAME else "no better"
            note = f"slower and {quality} than {other.name}"
            smaller = line.artifact["bytes"] < other.artifact["bytes"]
            sizes = [numbers.mebibytes(side.artifact["bytes"]) for side in (line, other)]
            note += f", but smaller ({sizes[0]} against {sizes[1]})" if smaller else ""
            return replace(line, notes=(*line.notes, note), dominated=True)
    return line


def _dominates(other: Line, line: Line) -> bool:
    both = other.artifact["executed"] and line.artifact["executed"]
    if not both or other.report["status"] != "passed":
        return False
    if difference(other.report, line.report) is not None:
        return False
    fast, slow = (side.artifact["throughput"]["speedup"]["ci95"] for side in (other, line))
    no_worse = _mean(other) > _mean(line) - _SAME and _scores_no_worse(other, line)
    return bool(fast[0] > slow[1] and no_worse)


def _mean(line: Line) -> float:
    return float(line.artifact["agreement"]["cosine"]["mean"])


def _scores_no_worse(other: Line, line: Line) -> bool:
    tasks = other.artifact["tasks"]
    return all(
        tasks[name]["artifact"] >= task["artifact"]
        for name, task in line.artifact["tasks"].items()
        if name in tasks and tasks[name]["metric"] == task["metric"]
    )
