"""Keep all nights in a SQLite file: one transaction a night.

The journal is SQLite's default (a rollback file), not WAL: there is one writer a night, and WAL
needs memory that all readers share, which network file systems do not have
(https://www.sqlite.org/wal.html).
"""

import contextlib
import json
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pipeline.errors import HistoryError
from pipeline.history.keep.records import ArtifactEntry, Entry, Figure, Finding

SCHEMA = 2
BUSY_S = 30.0
"""How long another writer is waited for: one night's transaction takes milliseconds."""

_TABLES = """
CREATE TABLE cells (night TEXT NOT NULL, cell TEXT NOT NULL, model TEXT NOT NULL,
  precision TEXT NOT NULL, device TEXT NOT NULL, state TEXT NOT NULL, exit_code INTEGER,
  stage TEXT, message TEXT, seconds REAL NOT NULL, command TEXT NOT NULL, bundle_sha256 TEXT,
  config_sha256 TEXT, target TEXT, machine TEXT, page TEXT, versions TEXT,
  failed_gates TEXT NOT NULL,
  PRIMARY KEY (cell, night)) WITHOUT ROWID;
CREATE TABLE stages (night TEXT NOT NULL, cell TEXT NOT NULL, position INTEGER NOT NULL,
  stage TEXT NOT NULL, seconds REAL NOT NULL, PRIMARY KEY (cell, night, position),
  FOREIGN KEY (cell, night) REFERENCES cells (cell, night) ON DELETE CASCADE) WITHOUT ROWID;
CREATE TABLE artifacts (night TEXT NOT NULL, cell TEXT NOT NULL, position INTEGER NOT NULL,
  artifact TEXT NOT NULL, device TEXT, reason TEXT, PRIMARY KEY (cell, night, artifact),
  FOREIGN KEY (cell, night) REFERENCES cells (cell, night) ON DELETE CASCADE) WITHOUT ROWID;
CREATE TABLE figures (night TEXT NOT NULL, cell TEXT NOT NULL, artifact TEXT NOT NULL,
  metric TEXT NOT NULL, value REAL, low REAL, high REAL,
  PRIMARY KEY (cell, night, artifact, metric),
  FOREIGN KEY (cell, night) REFERENCES cells (cell, night) ON DELETE CASCADE) WITHOUT ROWID;
CREATE TABLE findings (night TEXT NOT NULL, cell TEXT NOT NULL, position INTEGER NOT NULL,
  artifact TEXT NOT NULL, metric TEXT NOT NULL, kind TEXT NOT NULL, rule TEXT NOT NULL,
  text TEXT NOT NULL, fails INTEGER NOT NULL, accepted TEXT, PRIMARY KEY (cell, night, position),
  FOREIGN KEY (cell, night) REFERENCES cells (cell, night) ON DELETE CASCADE) WITHOUT ROWID;
"""

_CELL = (
    "night", "cell", "model", "precision", "device", "state", "exit_code", "stage", "message",
    "seconds", "command", "bundle_sha256", "config_sha256", "target", "machine", "page",
)  # fmt: skip
_FINDING = ("metric", "kind", "text", "fails", "artifact", "rule", "accepted")


@contextlib.contextmanager
def open_database(
    path: Path, *, create: bool = False, write: bool = False
) -> Iterator[sqlite3.Connection]:
    """Give a connection in one transaction: all of it is committed, or nothing.

    ``create`` makes a database where there is none; it and ``write`` lock it for other writers.

    Raises:
        HistoryError: there is none, or it is locked, damaged, read-only, or of a newer version.
    """
    if not create and not path.is_file():
        raise HistoryError(f"no database at {path}; --database names the one that nights write")
    connection = None
    try:
        if create:
            path.parent.mkdir(parents=True, exist_ok=True)
        connection = sqlite3.connect(path, timeout=BUSY_S, isolation_level=None)
        connection.execute("PRAGMA foreign_keys = ON")
        connection.execute("BEGIN IMMEDIATE" if create or write else "BEGIN")
        _check_schema(connection, path, create=create, write=write)
        yield connection
        connection.execute("COMMIT")
    except (sqlite3.Error, OSError) as error:
        raise HistoryError(f"{path}: {error}; {_remedy(error)}") from error
    finally:
        if connection is not None:
            connection.close()  # rolls back what was not committed


def _check_schema(connection: sqlite3.Connection, path: Path, *, create: bool, write: bool) -> None:
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if version == SCHEMA:
        return
    if version == 1:  # without the target
        if create or write:
            connection.execute("ALTER TABLE cells ADD COLUMN target TEXT")
            connection.execute(f"PRAGMA user_version = {SCHEMA}")
        return
    (tables,) = connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()
    if version or tables or not create:
        raise HistoryError(
            f"{path}: schema {version}, expected {SCHEMA}: another version of the pipeline wrote "
            "it, or it is no history of nights; name another file with --database"
        )
    for statement in _TABLES.split(";"):
        connection.execute(statement)
    connection.execute(f"PRAGMA user_version = {SCHEMA}")


def _remedy(error: Exception) -> str:
    words = str(error)
    if "locked" in words:
        return "another process writes it: end that one, then import the night"
    if "readonly" in words or isinstance(error, PermissionError):
        return "make the file and its directory writable, then import the night"
    if "full" in words or "disk" in words:
        return "make room on its disk, then import the night"
    return "move it away and import the nights that were kept beside it"


def write_entries(connection: sqlite3.Connection, entries: Sequence[Entry]) -> None:
    """Write entries; one of a night and cell that is there already takes its place."""
    for entry in entries:
        key = (entry.cell, entry.night)
        connection.execute("DELETE FROM cells WHERE cell = ? AND night = ?", key)
        _insert(
            connection,
            "cells",
            {name: getattr(entry, name) for name in _CELL}
            | {
                "versions": None if entry.versions is None else json.dumps(dict(entry.versions)),
                "failed_gates": json.dumps(list(entry.failed_gates)),
            },
        )
        row: dict[str, Any] = {"cell": entry.cell, "night": entry.night}
        for position, (stage, seconds) in enumerate(entry.stages):
            more = {"position": position, "stage": stage, "seconds": seconds}
            _insert(connection, "stages", row | more)
        for position, artifact in enumerate(entry.artifacts):
            _insert_artifact(connection, row, position, artifact)
        for position, finding in enumerate(entry.findings):
            values = {name: getattr(finding, name) for name in _FINDING}
            _insert(connection, "findings", row | {"position": position} | values)


def _insert_artifact(
    connection: sqlite3.Connection, row: Mapping[str, Any], position: int, artifact: ArtifactEntry
) -> None:
    name = {"artifact": artifact.name}
    values = {"position": position, "device": artifact.device, "reason": artifact.reason}
    _insert(connection, "artifacts", dict(row) | name | values)
    for metric, figure in artifact.figures.items():
        ends = dict.fromkeys(("value", "low", "high")) if figure is None else asdict(figure)
        _insert(connection, "figures", dict(row) | name | {"metric": metric} | ends)


def _insert(connection: sqlite3.Connection, table: str, row: Mapping[str, Any]) -> None:
    marks = ", ".join("?" * len(row))
    statement = f"INSERT INTO {table} ({', '.join(row)}) VALUES ({marks})"  # noqa: S608 - our names
    connection.execute(statement, tuple(row.values()))


def read_entries(
    connection: sqlite3.Connection, *, since: str = "", before: str | None = None
) -> list[Entry]:
    """Return the entries of ``since <= night < before``, by night and cell."""
    bounds = (since, before or "~")
    cells = _select(connection, "cells", bounds, "night, cell")
    stages = _group(_select(connection, "stages", bounds, "position"))
    artifacts = _group(_select(connection, "artifacts", bounds, "position"))
    findings = _group(_select(connection, "findings", bounds, "position"))
    figures: dict[tuple[str, str, str], dict[str, Figure | None]] = {}
    for row in _select(connection, "figures", bounds, "metric"):
        value = row["value"]
        figure = None if value is None else Figure(value=value, low=row["low"], high=row["high"])
        figures.setdefault((row["cell"], row["night"], row["artifact"]), {})[row["metric"]] = figure
    return [
        Entry(
            **{name: row[name] for name in _CELL if name in row},  # no target in schema 1
            versions=None if row["versions"] is None else json.loads(row["versions"]),
            failed_gates=tuple(json.loads(row["failed_gates"])),
            stages=tuple((s["stage"], s["seconds"]) for s in stages.get(key, ())),
            artifacts=tuple(
                ArtifactEntry(
                    name=a["artifact"],
                    device=a["device"],
                    reason=a["reason"],
                    figures=figures.get((*key, a["artifact"]), {}),
                )
                for a in artifacts.get(key, ())
            ),
            findings=tuple(_finding(f) for f in findings.get(key, ())),
        )
        for row in cells
        for key in ((row["cell"], row["night"]),)
    ]


def _finding(row: Mapping[str, Any]) -> Finding:
    values = {name: row[name] for name in _FINDING} | {"fails": bool(row["fails"])}
    return Finding(cell=row["cell"], **values)


def _select(
    connection: sqlite3.Connection, table: str, bounds: tuple[str, str], order: str
) -> list[dict[str, Any]]:
    cursor = connection.execute(
        f"SELECT * FROM {table} WHERE night >= ? AND night < ? ORDER BY {order}",  # noqa: S608
        bounds,
    )
    names = [column[0] for column in cursor.description]
    return [dict(zip(names, row, strict=True)) for row in cursor]


def _group(rows: Sequence[dict[str, Any]]) -> dict[tuple[str, str], list[dict[str, Any]]]:
    found: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in rows:
        found.setdefault((row["cell"], row["night"]), []).append(row)
    return found
