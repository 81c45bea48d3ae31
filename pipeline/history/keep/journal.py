"""Write and read entries as JSON lines: a night's copy without a database, the way in and out."""

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pipeline.errors import HistoryError
from pipeline.files import write_text
from pipeline.history.keep.records import STATES, ArtifactEntry, Entry, Figure, Finding, utc

SCHEMA = 1


def to_line(entry: Entry) -> str:
    """Return an entry as one line of JSON; figures that were not measured are null."""
    return json.dumps({"schema": SCHEMA} | asdict(entry), ensure_ascii=False, allow_nan=False)


def from_line(line: str) -> Entry:
    """Return the entry that ``to_line`` wrote.

    Raises:
        HistoryError: not JSON, another schema, or keys that no entry has.
    """
    try:
        data = json.loads(line)
    except ValueError as error:
        raise HistoryError(f"not JSON: {error}") from error
    if not isinstance(data, dict) or data.pop("schema", None) != SCHEMA:
        raise HistoryError(f"not a record of a night in schema {SCHEMA}")
    try:
        artifacts = tuple(_artifact(artifact) for artifact in data.pop("artifacts"))
        findings = tuple(Finding(**finding) for finding in data.pop("findings"))
        stages = tuple((str(name), float(seconds)) for name, seconds in data.pop("stages"))
        night = utc(data.pop("night"))
        gates = tuple(map(str, data.pop("failed_gates")))
        measured = {"stages": stages, "artifacts": artifacts, "findings": findings}
        entry = Entry(**data | measured | {"night": night, "failed_gates": gates})
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise HistoryError(f"not a record of a night: {error!r}") from error
    if entry.state not in STATES:
        raise HistoryError(f"state {entry.state!r}, expected one of {', '.join(STATES)}")
    return entry


def _artifact(data: Mapping[str, Any]) -> ArtifactEntry:
    figures = {
        str(metric): None if figure is None else Figure(**figure)
        for metric, figure in data["figures"].items()
    }
    return ArtifactEntry(**dict(data) | {"figures": figures})


def read_lines(path: Path) -> Iterator[Entry]:
    """Yield the entries of a file.

    Raises:
        HistoryError: it cannot be read, or a line is no record; names the line.
    """
    try:
        with path.open(encoding="utf-8") as stream:
            for number, line in enumerate(stream, start=1):
                if line.strip():
                    try:
                        yield from_line(line)
                    except HistoryError as error:
                        raise HistoryError(
                            f"{path} line {number}: {error}; nothing was imported"
                        ) from error
    except (OSError, UnicodeDecodeError) as error:
        raise HistoryError(f"cannot read {path}: {error}") from error


def write_lines(path: Path, entries: Iterable[Entry]) -> None:
    """Write a file of entries by one rename.

    Raises:
        OSError: it cannot be written; what was there before still is.
    """
    write_text(path, "".join(f"{to_line(entry)}\n" for entry in entries))


def night_name(night: str) -> str:
    """Return a night as a file name that every file system and artifact store takes."""
    return re.sub(r"[^0-9TZ]", "", night)


def keep_night(database: Path, night: str, entries: Sequence[Entry], directory: Path) -> Path:
    """Write a night's lines beside the database, or into ``directory`` where that cannot be.

    Returns:
        The file.

    Raises:
        HistoryError: it can be written to neither.
    """
    reasons = []
    for folder in (nights_directory(database), directory):
        path = folder / f"{night_name(night)}.jsonl"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            write_lines(path, entries)
        except OSError as error:
            reasons.append(f"{folder}: {error.strerror or error}")
        else:
            return path
    raise HistoryError(f"the night's records cannot be written: {'; '.join(reasons)}")


def nights_directory(database: Path) -> Path:
    """Return where nights are kept beside a database: their lines, their reports."""
    return database.with_name(f"{database.stem}.nights")
