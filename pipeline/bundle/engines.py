"""``engines/<runtime>-<version>-<target>/``: a plan, what is in it, and a manifest of its own.

A plan is for one GPU type and one TensorRT, so engines are added to a bundle wherever it serves,
long after it was published and signed. Nothing of the bundle is touched for that: its manifest does
not list them, theirs name its sha256 and that of the graph they were built from.
"""

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.bundle.checker import Checker
from pipeline.bundle.fields import (
    choice,
    field,
    files_field,
    parse_object,
    require_object,
    sha256_field,
)
from pipeline.bundle.manifest import (
    ENGINES,
    MANIFEST,
    MAX_BYTES,
    SIGNATURE,
    manifest_bytes,
    parse_manifest,
)
from pipeline.bundle.regular import read_regular
from pipeline.contracts import Profile, graph_sha256
from pipeline.errors import BundleError

ENGINE_GRAPH = "tensorrt/model.onnx"
"""What engines are built from, in the bundle."""

PLAN = "model.plan"
RUNTIMES = ("tensorrt", "tensorrt_rtx")
"""What a plan may be for: the name is imported as a Python module."""

SCHEMA = 1

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+-]*")
"""An engine's name is a directory, and stands in a server's configuration."""

_COMPUTE_CAPABILITY = re.compile(r"sm_[0-9]{2,3}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Parent:
    """The bundle that something was made of later: its manifest, and the sha256 of that."""

    root: Path
    manifest: dict[str, Any]
    manifest_sha256: str

    @property
    def checker(self) -> Checker:
        """Gives out the bundle's files."""
        return Checker(self.root, self.manifest)

    @property
    def graph_sha256(self) -> str | None:
        """The sha256 of what engines are built from; None where the bundle has no such graph."""
        if ENGINE_GRAPH not in self.manifest["files"]:
            return None
        return graph_sha256(self.manifest["files"], ENGINE_GRAPH)


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineDirectory:
    """An engine whose manifest is of this bundle; its files are checked as they are opened."""

    root: Path
    manifest: dict[str, Any]
    manifest_sha256: str

    @property
    def file(self) -> str:
        """The plan's name in the bundle."""
        return f"{ENGINES}/{self.root.name}/{PLAN}"

    @property
    def runtime(self) -> str:
        """``tensorrt`` or ``tensorrt_rtx``."""
        return str(self.manifest["runtime"])

    @property
    def version(self) -> str:
        """The version that built the plan."""
        return str(self.manifest["runtime_version"])

    @property
    def target(self) -> str:
        """Which GPUs it is for."""
        return str(self.manifest["target"])

    @property
    def version_compatible(self) -> bool:
        """Whether later versions of TensorRT load it too, and the lean runtime."""
        return bool(self.manifest["version_compatible"])

    @property
    def profiles(self) -> list[Profile]:
        """Its optimization profiles."""
        return [
            Profile(min=(*p["min"],), opt=(*p["opt"],), max=(*p["max"],))
            for p in self.manifest["profiles"]
        ]

    @property
    def checker(self) -> Checker:
        """Gives out the directory's files."""
        return Checker(self.root, self.manifest)


def open_parent(root: Path, *, manifest_sha256: str | None = None) -> Parent:
    """Read a bundle's manifest.

    Raises:
        BundleError: there is none, or it is not the one pinned.
    """
    content = manifest_bytes(root)
    manifest = parse_manifest(root, content, sha256=manifest_sha256)
    return Parent(root=root, manifest=manifest, manifest_sha256=hashlib.sha256(content).hexdigest())


def engine_directories(engines: Path) -> list[Path]:
    """Return the directories that should be engines; what is hidden is somebody's work or lock."""
    if not engines.is_dir():
        return []
    return sorted(path for path in engines.iterdir() if path.name[0] != "." and path.is_dir())


def read_engines(parent: Parent, engines: Path | None = None) -> Iterator[EngineDirectory]:
    """Yield the engines in a bundle, or of a bundle in another directory.

    Raises:
        BundleError: as ``read_engine``.
    """
    for directory in engine_directories(parent.root / ENGINES if engines is None else engines):
        yield read_engine(directory, parent)


def read_engine(directory: Path, parent: Parent) -> EngineDirectory:
    """Return an engine whose manifest says that it is of this bundle, and of this graph.

    Raises:
        BundleError: there is no manifest, it has another shape, or it names another bundle.
    """
    path = directory / MANIFEST
    again = f"remove {directory}, or build it again with python -m pipeline.build {parent.root}"
    for each in (directory.parent, directory):
        if each.is_symlink():
            raise BundleError(f"{each}: a symbolic link, which no bundle holds; {again}")
    try:
        content = read_regular(directory, MANIFEST, most=MAX_BYTES)
    except OSError as error:
        raise BundleError(f"{path}: {error.strerror or error}; {again}") from error
    try:
        manifest = parse_object(content)
        _check(manifest, directory.name)
    except ValueError as error:
        raise BundleError(f"{path}: {error}; {again}") from error
    seen = manifest["bundle"]["manifest_sha256"]
    if seen != parent.manifest_sha256:
        raise BundleError(
            f"{path}: an engine of the bundle with manifest sha256 {seen}, that of {parent.root} "
            f"is {parent.manifest_sha256}: not an engine of this bundle; {again}"
        )
    if manifest["graph"]["sha256"] != parent.graph_sha256:
        raise BundleError(f"{path}: built from another graph than {ENGINE_GRAPH}; {again}")
    return EngineDirectory(
        root=directory, manifest=manifest, manifest_sha256=hashlib.sha256(content).hexdigest()
    )


def _check(manifest: dict[str, Any], name: str) -> None:
    if (schema := field(manifest, "", "schema", int)) != SCHEMA:
        raise ValueError(f"schema {schema}, expected {SCHEMA}")
    bundle, graph = (field(manifest, "", key, dict) for key in ("bundle", "graph"))
    sha256_field(bundle, "bundle", "manifest_sha256")
    sha256_field(graph, "graph", "sha256")
    choice(manifest, "", "runtime", RUNTIMES)
    version, target = (field(manifest, "", key, str) for key in ("runtime_version", "target"))
    expected = f"{manifest['runtime']}-{version}-{target}"
    if name != expected:
        raise ValueError(f"the engine of {expected}, in a directory named {name}")
    if not _NAME.fullmatch(name):
        raise ValueError(f"an engine named {name!r}, expected letters, digits and ._+-")
    if manifest["runtime"] == "tensorrt" and not _COMPUTE_CAPABILITY.fullmatch(target):
        raise ValueError(f"target is {target!r}, expected sm_ and a compute capability")
    if PLAN not in files_field(manifest, unlisted=(MANIFEST, SIGNATURE)):
        raise ValueError(f"files has no {PLAN}")
    if not isinstance(manifest.get("version_compatible"), bool):
        raise ValueError("version_compatible is not true or false")
    for i, profile in enumerate(field(manifest, "", "profiles", list)):
        where = f"profiles[{i}]"
        require_object(profile, where)
        for key in ("min", "opt", "max"):
            sizes = field(profile, where, key, list)
            if len(sizes) != 2 or not all(type(size) is int and size > 0 for size in sizes):
                raise ValueError(f"{where}.{key} is no batch and sequence")
