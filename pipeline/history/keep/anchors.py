"""Keep one older bundle a cell, as hard links beside the database, to hold a drift against.

``previous`` is of last night, and a loss of half a percent a night never shows against it. The
anchor stays until something faster, or a level that somebody accepted, takes its place.
"""

import logging
import shutil
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from pipeline.bundle.manifest import MANIFEST
from pipeline.files import link_tree
from pipeline.history.keep.journal import night_name
from pipeline.history.keep.records import utc

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Anchor:
    """A bundle of an earlier night."""

    night: str
    bundle: Path


def find_anchor(database: Path, cell: str) -> Anchor | None:
    """Return a cell's anchor; None where there is none yet."""
    for bundle in sorted(_directory(database, cell).glob("[0-9]*"), reverse=True):
        if (bundle / MANIFEST).is_file():
            return Anchor(night=utc(bundle.name), bundle=bundle)
    return None


def keep_anchor(database: Path, cell: str, night: str, bundle: Path) -> None:
    """Make a bundle the cell's anchor, in place of the one before.

    Without room for it the night goes on, with a line in the log and the anchor as it was.
    """
    directory = _directory(database, cell)
    target = directory / night_name(night)
    try:
        link_tree(bundle, target)
    except OSError as error:
        log.warning("%s: no anchor kept in %s: %s", cell, directory, error)
        return
    for other in directory.iterdir():
        if other != target:
            shutil.rmtree(other, ignore_errors=True)


def drop_anchor(database: Path, cell: str) -> None:
    """Remove a cell's anchor: the next published night gives another."""
    shutil.rmtree(_directory(database, cell), ignore_errors=True)


def _directory(database: Path, cell: str) -> Path:
    return database.with_name(f"{database.stem}.anchors") / quote(cell, safe="")
