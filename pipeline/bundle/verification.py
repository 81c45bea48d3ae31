"""Check that a bundle is the one that was published: every file, its lineage, its report."""

import os
import stat
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.bundle.checker import Checker
from pipeline.bundle.engines import EngineDirectory, Parent, open_parent, read_engine
from pipeline.bundle.lineage import lineage_problems
from pipeline.bundle.manifest import ENGINES, MANIFEST, SIGNATURE, TRITON
from pipeline.bundle.signing import signature_problem
from pipeline.bundle.triton.manifest import triton_problems
from pipeline.errors import BundleError
from pipeline.files import parse_json

_PUBLISHED = ("passed", "unvalidated")


@dataclass(frozen=True, slots=True, kw_only=True)
class Verification:
    """What was found.

    ``signature`` says what is known of it in a few words. ``status`` is the report's: ``passed``,
    or ``unvalidated`` where nothing was measured; None where there is no report to read.
    ``engines`` are those that are of this bundle.
    """

    parent: Parent
    engines: tuple[EngineDirectory, ...]
    signature: str
    status: str | None
    problems: tuple[str, ...]

    @property
    def root(self) -> Path:
        """The bundle's directory."""
        return self.parent.root

    @property
    def manifest_sha256(self) -> str:
        """The sha256 of ``manifest.json``."""
        return self.parent.manifest_sha256

    @property
    def manifest(self) -> Mapping[str, Any]:
        """What ``manifest.json`` says."""
        return self.parent.manifest

    @property
    def bytes(self) -> int:
        """The room that the files take which the manifest lists; equal ones are hard links."""
        files = self.manifest["files"].values()
        return sum({file["sha256"]: file["bytes"] for file in files}.values())


def verify_bundle(
    root: Path,
    *,
    manifest_sha256: str | None = None,
    public_key: Path | None = None,
    engine_key: Path | None = None,
) -> Verification:
    """Check everything in a bundle and return all that is wrong, a line each.

    Nothing is deserialized or run. ``manifest_sha256`` pins the manifest; ``public_key`` asks for
    a signature by its private half, of the bundle and of each engine; ``engine_key`` is the
    engines' where whoever builds them has another.

    Raises:
        BundleError: there is no manifest to check against, it is not the one pinned, or the key
            cannot be read.
    """
    parent = open_parent(root, manifest_sha256=manifest_sha256)
    engines, engine_problems = verify_engines(parent, public_key=engine_key or public_key)
    status, problems = _own(parent)
    signed = (root / SIGNATURE).exists()
    signature = "there, not checked: give --public-key" if signed else "none"
    if public_key is not None:
        problem = signature_problem(root, public_key)
        signature = f"by the key of {public_key}" if problem is None else "NOT by that key"
        problems += [] if problem is None else [problem]
    return Verification(
        parent=parent,
        engines=tuple(engines),
        signature=signature,
        status=status,
        problems=(*problems, *engine_problems, *triton_problems(parent, engines)),
    )


def require_intact(
    root: Path, *, manifest_sha256: str | None = None, public_key: Path | None = None
) -> Parent:
    """Return a bundle whose own files are as published, whatever was made of it since.

    Raises:
        BundleError: as ``require_verified``.
    """
    parent = open_parent(root, manifest_sha256=manifest_sha256)
    _, problems = _own(parent)
    if public_key is not None and (problem := signature_problem(root, public_key)):
        problems.append(problem)
    _refuse(root, problems)
    return parent


def _own(parent: Parent) -> tuple[str | None, list[str]]:
    """Return the report's status, and what is wrong with what the manifest lists."""
    root, manifest = parent.root, parent.manifest
    status, differences = _report(root, manifest)
    return status, [
        *_changed_files(parent.checker, manifest),
        *_unlisted(root, manifest, later=(ENGINES, TRITON)),
        *(f"{root / MANIFEST}: {problem}" for problem in lineage_problems(manifest)),
        *differences,
    ]


def verify_engines(
    parent: Parent, *, public_key: Path | None = None
) -> tuple[list[EngineDirectory], list[str]]:
    """Return the bundle's own engines, and what is wrong in ``engines/``, a line each."""
    root = parent.root / ENGINES
    if root.is_symlink():
        return [], [f"{root}: a symbolic link, which no bundle holds; remove it"]
    found: list[EngineDirectory] = []
    problems: list[str] = []
    for path in sorted(root.iterdir()) if root.is_dir() else []:
        if path.name.startswith("."):  # a build at work, or its lock; nobody loads from there
            continue
        try:
            engine = read_engine(path, parent)
        except BundleError as error:
            problems.append(str(error))
            continue
        wrong = [
            *_changed_files(engine.checker, engine.manifest),
            *_unlisted(engine.root, engine.manifest),
        ]
        if public_key is not None and (problem := signature_problem(engine.root, public_key)):
            wrong.append(problem)
        problems += wrong
        found += [] if wrong else [engine]
    return found, problems


def require_verified(
    root: Path,
    *,
    manifest_sha256: str | None = None,
    public_key: Path | None = None,
    engine_key: Path | None = None,
) -> Verification:
    """Return the verification of a bundle in which nothing is wrong.

    Raises:
        BundleError: the first problem, and how many there are.
    """
    found = verify_bundle(
        root, manifest_sha256=manifest_sha256, public_key=public_key, engine_key=engine_key
    )
    _refuse(root, found.problems)
    return found


def _refuse(root: Path, problems: Sequence[str]) -> None:
    if problems:
        more = len(problems) - 1
        others = f" (and {more} more: python -m pipeline.verify {root})" if more else ""
        raise BundleError(f"{problems[0]}{others}")


def _changed_files(checker: Checker, manifest: Mapping[str, Any]) -> Iterator[str]:
    for name in manifest["files"]:
        try:
            if name.endswith(".onnx"):
                checker.graph(name)
            else:
                checker.path(name)
        except BundleError as error:
            yield str(error)


def _unlisted(
    root: Path, manifest: Mapping[str, Any], later: tuple[str, ...] = ()
) -> Iterator[str]:
    """Name what is in the directory and not in the manifest; links are not followed.

    ``later`` are directories with manifests of their own.
    """
    listed = {*manifest["files"], MANIFEST, SIGNATURE}
    for directory, directories, files in os.walk(root):
        if Path(directory) == root:
            directories[:] = [name for name in directories if name not in later]
        for entry in sorted((*directories, *files)):
            path = Path(directory, entry)
            mode = path.lstat().st_mode
            name = path.relative_to(root).as_posix()
            if stat.S_ISLNK(mode) and name not in manifest["files"]:
                yield f"{path}: a symbolic link, which no bundle holds; remove it"
            elif name in (MANIFEST, SIGNATURE) and not stat.S_ISREG(mode):
                yield f"{path}: not a regular file; remove it"
            elif not stat.S_ISDIR(mode) and name not in listed:
                yield f"{path}: not in the manifest; remove it, or publish the bundle again"


def _report(root: Path, manifest: dict[str, Any]) -> tuple[str | None, list[str]]:
    """Return the report's status, and where ``report.json`` differs from the manifest."""
    path = root / "report.json"
    try:
        report = parse_json(Checker(root, manifest).read("report.json"))
        status = str(report["status"])
        differences = list(_differences(report, manifest))
    except BundleError as error:
        unlisted = "report.json" not in manifest["files"]  # else named among the changed files
        return None, [str(error)] if unlisted else []
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        reason = f"{type(error).__name__}: {error}"
        return None, [f"{path}: not a report: {reason}; publish the bundle again"]
    return status, [f"{path}: {each}; publish the bundle again" for each in differences]


def _differences(report: Mapping[str, Any], manifest: Mapping[str, Any]) -> Iterator[str]:
    said = {
        "model": (report["model"], manifest["model"]["name"]),
        "precision": (report["precision"], manifest["precision"]),
        "source.weights_sha256": (
            report["source"]["weights_sha256"],
            manifest["model"]["weights_sha256"],
        ),
    }
    for key, (seen, expected) in said.items():
        if seen != expected:
            yield f"{key} is {seen!r}, by the manifest {expected!r}"
    if report["status"] not in _PUBLISHED:
        yield f"status is {report['status']!r}, expected {' or '.join(_PUBLISHED)}"
    for artifact in report["artifacts"]:
        name = artifact["file"]
        if name.startswith(f"{ENGINES}/"):  # what was measured then may have been built anew since
            continue
        file = manifest["files"].get(name)
        if file is None:
            yield f"{artifact['name']}: {name} is not in the manifest"
        elif artifact["bytes"] != file["bytes"]:
            yield f"{name} has {artifact['bytes']} bytes, by the manifest {file['bytes']}"
