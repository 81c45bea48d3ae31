"""Write files that readers see whole or not at all; link, copy and flush them."""

import contextlib
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def write_json(path: Path, data: Mapping[str, Any]) -> None:
    """Write ``data`` as JSON, as ``write_text`` does."""
    write_text(path, json.dumps(data, indent=2) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write ``text`` as UTF-8, as ``write_bytes`` does."""
    write_bytes(path, text.encode("utf-8"))


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file by one rename, once its bytes are on the disk.

    Raises:
        OSError: it cannot be written; what was there before still is.
    """
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with draft.open("wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        draft.replace(path)
    finally:
        discard(draft)


def discard(path: Path) -> None:
    """Remove a file if it is there; one that cannot be removed stays.

    For ``finally``: a file system that became read-only said so before, in words worth keeping.
    """
    with contextlib.suppress(OSError):
        path.unlink(missing_ok=True)


def parse_json(text: str | bytes) -> Any:
    """Return what JSON says, whoever wrote it.

    Raises:
        ValueError: not JSON, not Unicode, or nested too deeply to read.
    """
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def read_json(path: Path) -> dict[str, Any] | None:
    """Return the object in ``path``, or None where there is no file or no JSON object in it."""
    try:
        data = parse_json(path.read_text("utf-8"))
    except (OSError, ValueError):
        return None
    return data if isinstance(data, dict) else None


def link_or_copy(source: str | Path, target: str | Path) -> None:
    """Make ``target`` the same file as ``source``: a hard link, or a copy where links fail.

    Raises:
        OSError: neither can be made.
    """
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def link_tree(source: Path, target: Path) -> None:
    """Give a directory's files second names below ``target``, copies where links fail.

    Appears by one rename, in place of what is there.

    Raises:
        OSError: it cannot be made; what was there before still is, unless it could not be renamed.
    """
    draft = target.with_name(f".{target.name}")
    shutil.rmtree(draft, ignore_errors=True)
    try:
        shutil.copytree(source, draft, copy_function=link_or_copy)
        if target.exists():
            shutil.rmtree(target)
        draft.rename(target)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def fsync_tree(directory: Path) -> None:
    """Have every file and directory below, and this one, on disk."""
    for path in directory.rglob("*"):
        fsync(path)
    fsync(directory)


def fsync(path: Path) -> None:
    """Have one file or directory on disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
