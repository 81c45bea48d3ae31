"""The bundle that a cell may replace, kept as hard links for the night."""

import os
import shutil
from pathlib import Path

from filelock import FileLock


def keep_previous(bundle: Path, kept: Path) -> Path | None:
    """Link every file of ``bundle`` below ``kept`` and return it; None where nothing is published.

    What is kept already stays: a resumed cell may have published since. Takes no room, for the
    pipeline never writes into a published file. Another file system gets a copy. Raises OSError.
    """
    if kept.is_dir():
        return kept
    if not bundle.is_dir():
        return None
    partial = kept.with_name(f".{kept.name}")
    shutil.rmtree(partial, ignore_errors=True)
    # The lock of pipeline.bundle.place: nobody publishes in the meantime.
    with FileLock(bundle.parent / f".{bundle.name}.lock"):
        shutil.copytree(bundle, partial, copy_function=_link)
    partial.rename(kept)
    return kept


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # another file system, or one without hard links
        shutil.copy2(source, target)
