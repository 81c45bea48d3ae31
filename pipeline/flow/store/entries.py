"""Read, link and remove the stage store's entries on disk, each whole or not at all."""

import contextlib
import hashlib
import json
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from pipeline.contracts import sha256_file
from pipeline.files import link_or_copy

SCHEMA = 1


class CorruptError(Exception):
    """An entry is not what it says, and why."""


def records(root: Path, stage: str) -> Iterator[Path]:
    """Yield the ``entry.json`` of each entry, not of what is on its way in or out."""
    for path in root.glob(f"{stage}/*/entry.json"):
        if path.parent.suffix != ".tmp":
            yield path


def read_entry(entry: Path) -> dict[str, Any]:
    """Return what an entry says; its every file is the one that was stored.

    Raises:
        CorruptError: one is not.
        OSError: one cannot be read.
    """
    record = read_record(entry / "entry.json")
    for name, told in record["files"].items():
        path = entry / "files" / name
        if path.stat().st_size != told["bytes"] or sha256_file(path) != told["sha256"]:
            raise CorruptError(f"{name} is not what was stored")
    return record


def read_record(path: Path) -> dict[str, Any]:
    """Return what ``entry.json`` says, if it is what was written.

    Raises:
        CorruptError: it is not.
        OSError: it cannot be read.
    """
    try:
        record = json.loads(path.read_text("utf-8"))
    except ValueError as error:
        raise CorruptError(f"entry.json: {error}") from error
    if not isinstance(record, dict) or record.pop("checksum", None) != checksum(record):
        raise CorruptError("entry.json is not what was stored")
    if record["schema"] != SCHEMA:
        raise CorruptError(f"schema {record['schema']}, expected {SCHEMA}")
    return record


def checksum(record: dict[str, Any]) -> str:
    """Return the sha256 of a record without its own."""
    return hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()


def link_files(source: Path, names: Iterable[str], target: Path) -> None:
    """Give the named files below one directory the same names below another, which is made."""
    target.mkdir(parents=True)
    for name in names:
        link(source / name, target / name)


def link(source: Path, target: Path) -> None:
    """Give a file a second name below a directory that is made where it is not there."""
    target.parent.mkdir(parents=True, exist_ok=True)
    link_or_copy(source, target)


def remove(entry: Path, aside: Path | None = None) -> None:
    """Remove an entry that nobody can then see half of; its lock is held."""
    aside = aside or entry.with_name(f"{entry.name}.tmp")
    shutil.rmtree(aside, ignore_errors=True)
    entry.rename(aside)
    shutil.rmtree(aside, ignore_errors=True)


@contextlib.contextmanager
def try_lock(entry: Path) -> Iterator[bool]:
    """Hold an entry's lock if nobody else does."""
    lock = FileLock(f"{entry}.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        yield False
        return
    try:
        yield True
    finally:
        lock.release()
