"""Keep the bundle that a cell may replace, as hard links, for the night."""

from pathlib import Path

from filelock import FileLock

from pipeline.files import link_tree


def keep_previous(bundle: Path, kept: Path) -> Path | None:
    """Link every file of ``bundle`` below ``kept`` and return it; None where nothing is published.

    What is kept already stays: a resumed cell may have published since. Takes no room, for the
    pipeline never writes into a published file. Another file system gets a copy. Raises OSError.
    """
    if kept.is_dir():
        return kept
    if not bundle.is_dir():
        return None
    # The lock of pipeline.bundle.place: nobody publishes in the meantime.
    with FileLock(bundle.parent / f".{bundle.name}.lock"):
        link_tree(bundle, kept)
    return kept
