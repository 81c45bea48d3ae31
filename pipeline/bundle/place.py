"""Publish by one rename, with scratch space and locks, so that nobody sees half a bundle.

Everything is written under ``<artifacts>/.staging/<run>/``, on the file system of its final place,
and appears there by one rename. A run holds a lock on its staging directory, so a later run can
tell a dead one's leftovers from a living one's work.
"""

import contextlib
import ctypes
import errno
import logging
import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from pipeline.errors import PublishError
from pipeline.files import discard, fsync, fsync_tree

log = logging.getLogger(__name__)

_AT_FDCWD = -100
_RENAME_EXCHANGE = 2


@contextlib.contextmanager
def staging(artifacts: Path) -> Iterator[Path]:
    """Give a fresh directory under ``artifacts``, removed at the end whatever happens.

    Raises:
        PublishError: ``artifacts`` cannot be written.
    """
    root = artifacts / ".staging"
    try:
        root.mkdir(parents=True, exist_ok=True)
        with FileLock(
            artifacts / ".staging.lock"
        ):  # else a starting run's lock may look like a dead one's
            _remove_dead(root)
            work = root / f"{os.getpid()}-{secrets.token_hex(4)}"
            lock = FileLock(f"{work}.lock")
            lock.acquire(timeout=0)
            work.mkdir()
    except OSError as error:
        raise PublishError(
            f"cannot write {artifacts}: {error.strerror or error}; set artifacts_dir to a "
            "directory you may write"
        ) from error
    try:
        yield work
    finally:
        shutil.rmtree(work, ignore_errors=True)
        lock.release()
        discard(Path(lock.lock_file))


def _remove_dead(root: Path) -> None:
    """Remove the staging directories of runs that no longer hold their lock."""
    for lock_file in root.glob("*.lock"):
        try:
            with FileLock(lock_file, timeout=0):
                shutil.rmtree(lock_file.with_suffix(""), ignore_errors=True)
                lock_file.unlink(missing_ok=True)
        except (Timeout, OSError):
            continue


def publish_directory(source: Path, target: Path, *, locks: Path | None = None) -> None:
    """Put ``source`` in ``target``'s place by one rename; what was there before is removed.

    The lock of ``target`` is in ``locks``, by default beside it.

    The old directory stays complete until the new one is there: the two swap names
    (``renameat2`` with ``RENAME_EXCHANGE``; Linux). Where the file system cannot swap, the old one
    is renamed away first, which leaves a moment without either.

    Raises:
        PublishError: the directories cannot be renamed.
    """
    try:
        fsync_tree(source)
        target.parent.mkdir(parents=True, exist_ok=True)
        with FileLock((locks or target.parent) / f".{target.name}.lock"):
            if not target.exists():
                source.rename(target)
            elif _exchange(source, target):
                shutil.rmtree(source)
            else:
                log.warning("%s: this file system cannot swap directories in one step", target)
                _replace_in_two_steps(source, target)
            fsync(target.parent)
    except OSError as error:
        raise PublishError(
            f"cannot publish {target}: {error.strerror or error}; set artifacts_dir to a "
            "directory you may write, with room for the bundle"
        ) from error


def _replace_in_two_steps(source: Path, target: Path) -> None:
    """Move the old directory aside, the new one in; the old one back where that fails."""
    aside = target.with_name(f".{target.name}.previous")
    shutil.rmtree(aside, ignore_errors=True)
    target.rename(aside)
    try:
        source.rename(target)
    except BaseException:
        if not target.exists():
            aside.rename(target)
        raise
    shutil.rmtree(aside)


def _exchange(a: Path, b: Path) -> bool:
    """Swap two paths atomically; return False where kernel, libc or file system cannot."""
    renameat2 = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if renameat2 is None:
        return False
    done = renameat2(_AT_FDCWD, os.fsencode(a), _AT_FDCWD, os.fsencode(b), _RENAME_EXCHANGE)
    if done == 0:
        return True
    code = ctypes.get_errno()
    if code in (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP):
        return False
    raise OSError(code, os.strerror(code), str(b))
