"""Define what history keeps of a cell, and what it finds."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal

from pipeline.errors import HistoryError
from pipeline.history.keep.status import State

Kind = Literal[
    "regression", "step", "machine", "missing", "rejected", "error", "crashed", "timeout", "stopped"
]

STATES = tuple(str(state) for state in State if state is not State.running)
"""How a cell of a night that is closed can have ended; ``stopped``: with its night."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What a night shows of a cell; with ``fails`` it fails the night.

    ``regression``: got worse, and that is confirmed. ``machine``: measured slower, but the bundle
    before is equally slow now. ``step``: a line stepped, or looks slower and could not be
    confirmed. ``missing``: an artifact that was not measured tonight, or a cell without a status; a
    cell that ended otherwise is told by its state. ``rule`` says which comparison found it,
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
    ``target`` is the GPU type of an engine that was built from another cell's bundle. ``machine``
    is what speeds compare on. ``page`` is the night's own ``report.html``, relative to
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
    target: str | None = None
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


def label_night(night: str, others: Iterable[str]) -> str:
    """Return a night's day, with the time where one of the others began on that day too."""
    same = [other for other in others if other[:10] == night[:10] and other != night]
    if not same:
        return night[:10]
    end = 19 if any(other[:16] == night[:16] for other in same) else 16
    return f"{night[:10]} {night[11:end]}"


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
