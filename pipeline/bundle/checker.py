"""Give out a published bundle's files once their bytes are those of the manifest."""

import hashlib
import os
from pathlib import Path
from typing import Any

from pipeline.bundle.external_data import external_locations
from pipeline.bundle.held import HeldDirectory
from pipeline.bundle.regular import open_regular
from pipeline.errors import BundleError

Identity = tuple[int, ...]


class ChangedError(BundleError):
    """A file was touched between its check and its use."""


class Checker:
    """Gives out a bundle's files once their size and sha256 are the manifest's."""

    def __init__(self, root: Path, manifest: dict[str, Any]) -> None:
        """Check against a manifest that ``parse_manifest`` returned."""
        self._root = root
        self._files: dict[str, dict[str, Any]] = manifest["files"]
        self._opened: dict[str, Identity] = {}
        self._held: list[HeldDirectory] = []

    def path(self, name: str) -> Path:
        """Return where a file is.

        Whoever opens it by this path calls ``recheck`` afterwards.

        Raises:
            BundleError: not in the manifest, missing, a link, or changed.
        """
        self._hash(name, keep=False)
        return self._root / name

    def read(self, name: str) -> bytes:
        """Return a file's bytes, the very ones that were hashed.

        Raises:
            BundleError: as ``path``.
        """
        return self._hash(name, keep=True)

    def has(self, name: str) -> bool:
        """Whether the manifest lists the file."""
        return name in self._files

    def graph(self, name: str = "model.onnx") -> Path:
        """Return where an ONNX graph is, its external data checked too.

        A graph names the files that its tensors are in; a runtime opens whatever that is.

        Raises:
            BundleError: as ``path``; no ONNX graph; or it names another file than ``<name>.data``
                beside it.
        """
        path = self.path(name)
        data = f"{name}.data"
        for location in sorted(external_locations(path)):
            if location != Path(data).name:
                raise BundleError(
                    f"{path}: its tensors are in {location!r}, expected {Path(data).name!r} beside "
                    "it: not a graph that was published; publish the bundle again"
                )
            self.path(data)
        return path

    def hold(self, name: str = "model.onnx") -> Path:
        """Return where a graph is as ``graph`` does, by a path that leads to no other directory.

        It does so as long as this checker is there.

        Raises:
            BundleError: as ``graph``.
            ChangedError: another directory took the place of the graph's since it was checked.
        """
        path = self.graph(name)
        directory, _, last = name.rpartition("/")
        if not directory:
            return path
        try:
            held = HeldDirectory(self._root, directory)
            for file in (name, f"{name}.data"):
                if file in self._opened:
                    with open_regular(held.path, file.rpartition("/")[2]) as stream:
                        if _identity(stream.fileno()) != self._opened[file]:
                            raise _touched(self._root / file)
        except OSError as error:
            raise _touched(path) from error
        self._held.append(held)
        return held.path / last

    def recheck(self) -> None:
        """Make sure that what was given out is what was opened since.

        Raises:
            ChangedError: a file was written, replaced, moved or linked in between.
        """
        for name, identity in self._opened.items():
            try:
                with open_regular(self._root, name) as stream:
                    same = _identity(stream.fileno()) == identity
            except OSError:
                same = False
            if not same:
                raise _touched(self._root / name)

    def _hash(self, name: str, *, keep: bool) -> bytes:
        path = self._root / name
        if name not in self._files:
            raise BundleError(f"{path}: not in the manifest; publish the bundle again")
        expected = self._files[name]
        try:
            with open_regular(self._root, name) as stream:
                size = os.fstat(stream.fileno()).st_size
                if size != expected["bytes"]:
                    raise _changed(path, f"{size} bytes", f"{expected['bytes']}")
                self._opened[name] = _identity(stream.fileno())
                if keep:
                    content = stream.read()
                    seen = hashlib.sha256(content).hexdigest()
                else:
                    content = b""
                    seen = hashlib.file_digest(stream, "sha256").hexdigest()
        except FileNotFoundError as error:
            raise BundleError(f"{path}: missing; publish the bundle again") from error
        except OSError as error:
            raise BundleError(
                f"{path}: {error.strerror or error}; a bundle holds regular files that can be "
                "read and nothing else; publish or pull it again"
            ) from error
        if seen != expected["sha256"]:
            raise _changed(path, f"sha256 {seen}", expected["sha256"])
        return content


def _identity(descriptor: int) -> Identity:
    """Return what tells a file, and its last change, from any other; nobody can set a ctime."""
    stat = os.fstat(descriptor)
    return stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns


def _touched(path: Path) -> ChangedError:
    return ChangedError(
        f"{path}: changed while it was opened; find out who writes there, then load the bundle "
        "again"
    )


def _changed(path: Path, seen: str, expected: str) -> BundleError:
    return BundleError(
        f"{path}: {seen}, the manifest says {expected}: the file was changed after publishing; "
        "publish the bundle again"
    )
