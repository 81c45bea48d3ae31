"""Hold a directory open, so that nothing changes with what its name leads to meanwhile.

A runtime opens files by their paths. ``/proc/self/fd/<descriptor>`` is a path that leads to the
very directory that was opened, wherever links, renames and mounts put its name since (proc(5)).
Without ``/proc`` the name itself is given.
"""

import os
import weakref
from pathlib import Path

from pipeline.bundle.regular import open_directory

_DESCRIPTORS = Path("/proc/self/fd")


class HeldDirectory:
    """A directory, open until ``close`` or until nobody has this any more."""

    def __init__(self, root: Path, name: str = "") -> None:
        """Open ``root``, or the directory ``name`` below it that no link is on the way to.

        Raises:
            OSError: missing, unreadable, no directory, or a link on the way.
        """
        descriptor = open_directory(root, name.split("/") if name else [])
        self._finalizer = weakref.finalize(self, os.close, descriptor)
        held = _DESCRIPTORS / str(descriptor)
        self.path = held if _DESCRIPTORS.is_dir() else root / name

    def close(self) -> None:
        """Let go of it; ``path`` leads nowhere from now on."""
        self._finalizer()
