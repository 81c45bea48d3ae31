"""Store stage outputs by their content's key, for every run on one file system.

::

    <root>/<stage>/<key>/entry.json   parts of the key, the artifact, every file's sha256
    <root>/<stage>/<key>/files/…      what the stage wrote
    <root>/<stage>/<key>.lock         held while the entry is made, replaced or removed
    <root>/<stage>/<key>.tmp/         an entry on its way in or out, under that lock

An entry appears by one rename. Files are hard links where the file system allows, copies elsewhere,
so a run keeps what it took whatever happens to the store. What does not hash to what its entry says
is never used. A store that cannot be read or written costs its use, not the run.
"""

import contextlib
import json
import logging
import os
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from pipeline.contracts import sha256_file
from pipeline.files import fsync_tree
from pipeline.flow.store.entries import (
    SCHEMA,
    CorruptError,
    checksum,
    link,
    link_files,
    read_entry,
    read_record,
    records,
    remove,
    try_lock,
)
from pipeline.flow.store.keys import Parts, key_of
from pipeline.flow.store.records import T, from_record, to_record

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreLimits:
    """What ``collect`` leaves: bytes in all and seconds since an entry was last used."""

    bytes: float | None = None
    age_s: float | None = None


class StageStore:
    """Finds a stage's output again, or has it made once, by one process at a time."""

    def __init__(self, root: Path | None, *, refresh: bool = False) -> None:
        """Keep entries under ``root``; None keeps nothing. ``refresh`` replaces what is there."""
        self._root = root
        self._refresh = refresh

    def get_or_make(
        self,
        stage: str,
        kind: type[T],
        parts: Parts,
        subject: str,
        work: Path,
        make: Callable[[Path], T],
    ) -> tuple[T, bool]:
        """Return the stage's output, its files under ``work/<stage>``, and whether it was there.

        ``make`` is handed that directory (not there yet) and returns the artifact. ``parts`` are
        what it depends on; ``subject`` names entries that can be compared with one another.
        """
        out = work / stage.replace(" ", "_")
        if self._root is None:
            return make(out), False
        key = key_of(stage, parts)
        entry = self._root / stage.replace(" ", "_") / key
        with contextlib.ExitStack() as stack:
            if not self._refresh:
                found = self._take(entry, kind, work, out)
                if found is not None:
                    return found, True
            if self._root is None or not self._lock(entry, stack):
                return make(out), False
            if not self._refresh:
                found = self._take(entry, kind, work, out, mend=True)
                if found is not None:
                    return found, True
                self._say_why(stage, entry.parent, parts, subject)
            start = time.perf_counter()
            made = make(out)
            seconds = time.perf_counter() - start
            record = {
                "schema": SCHEMA,
                "stage": stage,
                "key": key,
                "subject": subject,
                "parts": dict(parts),
                "created": datetime.now(UTC).isoformat(timespec="seconds"),
                "seconds": round(seconds, 3),
                "artifact": to_record(made, work),
            }
            self._put(entry, record, out)
            return made, False

    def collect(self, limits: StoreLimits) -> None:
        """Remove what dead builders left, entries not used for long, and the least recently used.

        An entry that is being made is left alone.
        """
        if self._root is None or not self._root.is_dir():
            return
        try:
            for leftover in self._root.glob("*/*.tmp"):
                with try_lock(leftover.with_suffix("")) as held:
                    if held:
                        shutil.rmtree(leftover, ignore_errors=True)
            self._collect_entries(limits)
            for lock in self._root.glob("*/*.lock"):
                if not lock.with_suffix("").exists():
                    with try_lock(lock.with_suffix("")) as held:
                        if held:
                            lock.unlink(missing_ok=True)
        except OSError as error:
            log.warning("stage store %s: not tidied: %s", self._root, error.strerror or error)

    def _collect_entries(self, limits: StoreLimits) -> None:
        assert self._root is not None
        used = []
        for path in records(self._root, "*"):
            with contextlib.suppress(OSError):  # removed by another run meanwhile
                size = sum(f.stat().st_size for f in path.parent.rglob("*") if f.is_file())
                used.append((path.stat().st_mtime, size, path.parent))
        used.sort(reverse=True)
        total, now = 0, time.time()
        for last, size, entry in used:
            total += size
            old = limits.age_s is not None and now - last > limits.age_s
            if old or (limits.bytes is not None and total > limits.bytes):
                with try_lock(entry) as held:
                    if held:
                        remove(entry)
                        log.info("stage store: removed %s/%s", entry.parent.name, entry.name[:12])

    def _lock(self, entry: Path, stack: contextlib.ExitStack) -> bool:
        """Become the one that makes this entry, waiting for another; False where nobody can."""
        lock = FileLock(f"{entry}.lock")
        try:
            entry.parent.mkdir(parents=True, exist_ok=True)
            try:
                lock.acquire(timeout=0)
            except Timeout:
                log.info("%s: another run is making this: waiting for it", entry.parent.name)
                lock.acquire()
        except OSError as error:
            self._give_up(error)
            return False
        stack.callback(lock.release)
        return True

    def _take(
        self, entry: Path, kind: type[T], work: Path, out: Path, *, mend: bool = False
    ) -> T | None:
        """Return a whole entry's artifact, its files linked to ``out``; else None.

        ``mend``, for who holds the lock: an entry that is damaged is removed with a warning.
        """
        try:
            record = read_entry(entry)
            link_files(entry / "files", record["files"], out)
            artifact = from_record(kind, record["artifact"], work)
        except FileNotFoundError:
            if not (entry / "entry.json").exists() and not mend:
                return None
            why = "incomplete"
        except (CorruptError, ValueError, KeyError, TypeError) as error:
            why = " ".join(str(error).split())
        except OSError as error:
            self._give_up(error)
            why = ""
        else:
            with contextlib.suppress(OSError):
                os.utime(entry / "entry.json")
            log.info("%s from the store (made %s)", record["stage"], record["created"])
            return artifact
        shutil.rmtree(out, ignore_errors=True)
        if mend and entry.exists() and self._root is not None:
            log.warning("stage store: %s/%s: %s; removed", entry.parent.name, entry.name[:12], why)
            with contextlib.suppress(OSError):
                remove(entry)
        return None

    def _put(self, entry: Path, record: dict[str, Any], out: Path) -> None:
        """Add an entry; a store that is full or read-only is given up with a warning."""
        if self._root is None:  # given up meanwhile
            return
        fresh = entry.with_name(f"{entry.name}.tmp")
        try:
            shutil.rmtree(fresh, ignore_errors=True)
            files = {
                path.relative_to(out).as_posix(): {
                    "sha256": sha256_file(path),
                    "bytes": path.stat().st_size,
                }
                for path in sorted(out.rglob("*"))
                if path.is_file()
            }
            (fresh / "files").mkdir(parents=True)
            for name in files:
                link(out / name, fresh / "files" / name)
            record["files"] = files
            record["checksum"] = checksum(record)
            (fresh / "entry.json").write_text(json.dumps(record, indent=1), "utf-8")
            fsync_tree(fresh)
            if entry.exists():  # refreshed
                remove(entry, aside=entry.with_name(f"{entry.name}.old.tmp"))
            fresh.rename(entry)
        except OSError as error:
            self._give_up(error)
        finally:  # a signal may end the run here
            shutil.rmtree(fresh, ignore_errors=True)

    def _give_up(self, error: OSError) -> None:
        log.warning(
            "stage store %s: %s: this run goes on without it (cache.directory, cache.enabled)",
            self._root,
            error.strerror or error,
        )
        self._root = None

    def _say_why(self, stage: str, entries: Path, parts: Parts, subject: str) -> None:
        """Log what differs from the newest entry of the same subject."""
        newest: tuple[str, dict[str, str]] | None = None
        for path in records(entries.parent, entries.name):
            with contextlib.suppress(CorruptError, OSError):
                record = read_record(path)
                if record["subject"] == subject and (
                    newest is None or record["created"] > newest[0]
                ):
                    newest = (record["created"], record["parts"])
        if newest is not None:
            names = [name for name in parts if parts[name] != newest[1].get(name)]
            log.info("%s anew: %s changed", stage, ", ".join(names) or "nothing it depends on")
