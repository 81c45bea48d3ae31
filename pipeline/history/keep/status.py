"""Write and read ``status.json``: what a cell came to, schema 1."""

from dataclasses import asdict, dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, Self

from pipeline.files import read_json, write_json

SCHEMA = 1
STATUS_FILE = "status.json"


class State(StrEnum):
    """What became of a cell.

    The last four are not final: a resumed night runs the cell again. ``skipped`` is a cell whose
    bundle was not published. ``missing`` is never written; it is what a summary calls a cell whose
    process ended without a final status, ``stopped`` one that was not done when its night was
    stopped.
    """

    published = "published"
    rejected = "rejected"
    error = "error"
    crashed = "crashed"
    timeout = "timeout"
    skipped = "skipped"
    running = "running"
    stopped = "stopped"
    missing = "missing"

    @property
    def is_final(self) -> bool:
        """Whether the cell's command ran to an end of its own, or to its timeout."""
        return self not in {State.skipped, State.running, State.stopped, State.missing}

    @property
    def is_told(self) -> bool:
        """Whether nothing more comes of the cell on this night: it is final, or was skipped."""
        return self.is_final or self is State.skipped


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """A cell's outcome; times are UTC in ISO 8601, ``reports`` are paths by file name.

    ``target`` is the GPU type of the engine that a cell builds from another cell's bundle.
    """

    cell: str
    model: str
    precision: str
    device: str
    command: str
    state: State
    exit_code: int | None = None
    signal: str | None = None
    stage: str | None = None
    message: str | None = None
    seconds: float = 0.0
    started: str | None = None
    ended: str | None = None
    host: str | None = None
    gpu: str | None = None
    target: str | None = None
    bundle: str | None = None
    previous: str | None = None
    reports: dict[str, str] = field(default_factory=dict)

    def report(self) -> dict[str, Any] | None:
        """Return the content of its ``report.json``; None where there is none that can be read."""
        path = self.reports.get("report.json")
        return None if path is None else read_json(Path(path))

    def write(self, directory: Path) -> None:
        """Write ``status.json`` in one step; raises OSError."""
        write_json(directory / STATUS_FILE, {"schema": SCHEMA, **asdict(self)})

    @classmethod
    def read(cls, directory: Path) -> Self | None:
        """Return the status in a cell's directory; None without one, or where it is no status."""
        data: dict[str, Any] = read_json(directory / STATUS_FILE) or {}
        if data.pop("schema", None) != SCHEMA:
            return None
        try:
            return cls(**{**data, "state": State(data["state"])})
        except (TypeError, KeyError, ValueError):
            return None
