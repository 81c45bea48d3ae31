"""Check that a bundle is the one that was published: every file, its lineage, its report."""

import hashlib
import json
import os
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.bundle.checker import Checker
from pipeline.bundle.lineage import lineage_problems
from pipeline.bundle.manifest import MANIFEST, SIGNATURE, manifest_bytes, parse_manifest
from pipeline.bundle.signing import signature_problem
from pipeline.errors import BundleError

_PUBLISHED = ("passed", "unvalidated")


@dataclass(frozen=True, slots=True, kw_only=True)
class Verification:
    """What was found.

    ``signature`` says what is known of it in a few words. ``status`` is the report's: ``passed``,
    or ``unvalidated`` where nothing was measured; None where there is no report to read.
    """

    root: Path
    manifest: Mapping[str, Any]
    manifest_sha256: str
    signature: str
    status: str | None
    problems: tuple[str, ...]

    @property
    def bytes(self) -> int:
        """The size of all files that the manifest lists."""
        return sum(file["bytes"] for file in self.manifest["files"].values())


def verify_bundle(
    root: Path, *, manifest_sha256: str | None = None, public_key: Path | None = None
) -> Verification:
    """Check everything in a bundle and return all that is wrong, a line each.

    Nothing is deserialized or run. ``manifest_sha256`` pins the manifest; ``public_key`` asks for
    a signature by its private half.

    Raises:
        BundleError: there is no manifest to check against, it is not the one pinned, or the key
            cannot be read.
    """
    content = manifest_bytes(root)
    manifest = parse_manifest(root, content, sha256=manifest_sha256)
    status, differences = _report(root, manifest)
    problems = [
        *_changed_files(root, manifest),
        *_unlisted(root, manifest),
        *(f"{root / MANIFEST}: {problem}" for problem in lineage_problems(manifest)),
        *differences,
    ]
    signed = (root / SIGNATURE).exists()
    signature = "there, not checked: give --public-key" if signed else "none"
    if public_key is not None:
        problem = signature_problem(root, public_key)
        signature = f"by the key of {public_key}" if problem is None else "NOT by that key"
        problems += [] if problem is None else [problem]
    return Verification(
        root=root,
        manifest=manifest,
        manifest_sha256=hashlib.sha256(content).hexdigest(),
        signature=signature,
        status=status,
        problems=tuple(problems),
    )


def require_verified(
    root: Path, *, manifest_sha256: str | None = None, public_key: Path | None = None
) -> Verification:
    """Return the verification of a bundle in which nothing is wrong.

    Raises:
        BundleError: the first problem, and how many there are.
    """
    found = verify_bundle(root, manifest_sha256=manifest_sha256, public_key=public_key)
    if found.problems:
        more = len(found.problems) - 1
        others = f" (and {more} more: python -m pipeline.verify {root})" if more else ""
        raise BundleError(f"{found.problems[0]}{others}")
    return found


def _changed_files(root: Path, manifest: dict[str, Any]) -> Iterator[str]:
    checker = Checker(root, manifest)
    for name in manifest["files"]:
        try:
            if name.endswith(".onnx"):
                checker.graph(name)
            else:
                checker.path(name)
        except BundleError as error:
            yield str(error)


def _unlisted(root: Path, manifest: Mapping[str, Any]) -> Iterator[str]:
    """Name what is in the directory and not in the manifest; links are not followed."""
    listed = {*manifest["files"], MANIFEST, SIGNATURE}
    for directory, directories, files in os.walk(root):
        for entry in sorted((*directories, *files)):
            path = Path(directory, entry)
            mode = path.lstat().st_mode
            name = path.relative_to(root).as_posix()
            if stat.S_ISLNK(mode) and name not in listed:
                yield f"{path}: a symbolic link, which no bundle holds; remove it"
            elif not stat.S_ISDIR(mode) and name not in listed:
                yield f"{path}: not in the manifest; remove it, or publish the bundle again"


def _report(root: Path, manifest: dict[str, Any]) -> tuple[str | None, list[str]]:
    """Return the report's status, and where ``report.json`` differs from the manifest."""
    path = root / "report.json"
    try:
        report = json.loads(Checker(root, manifest).read("report.json"))
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
    engines = {engine["file"]: engine for engine in manifest["engines"]}
    for artifact in report["artifacts"]:
        name = artifact["file"]
        file = manifest["files"].get(name)
        if file is None:
            yield f"{artifact['name']}: {name} is not in the manifest"
        elif artifact["bytes"] != file["bytes"]:
            yield f"{name} has {artifact['bytes']} bytes, by the manifest {file['bytes']}"
        for key in ("runtime_version", "target") if name in engines else ():
            if artifact[key] != engines[name][key]:
                yield f"{name}: {key} {artifact[key]!r}, by the manifest {engines[name][key]!r}"
    for name in engines.keys() - {artifact["file"] for artifact in report["artifacts"]}:
        yield f"{name} is in the manifest and not among the artifacts"
