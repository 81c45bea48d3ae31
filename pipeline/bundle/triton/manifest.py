"""``triton/manifest.json``: which bundle and which engines a Triton repository was made of.

The repository is made anew when an engine is added, so the bundle's own manifest does not list it.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

from pipeline.bundle.checker import Checker
from pipeline.bundle.engine_writing import list_files
from pipeline.bundle.engines import EngineDirectory, Parent
from pipeline.bundle.fields import field, files_field, parse_object, sha256_field
from pipeline.bundle.manifest import MANIFEST, MAX_BYTES, SIGNATURE, TRITON
from pipeline.bundle.regular import read_regular
from pipeline.errors import BundleError
from pipeline.files import write_json

SCHEMA = 1


def write_manifest(root: Path, parent: Parent, plans: Sequence[EngineDirectory]) -> None:
    """Write the manifest of a repository in which everything else is."""
    manifest = {
        "schema": SCHEMA,
        "bundle": {"manifest_sha256": parent.manifest_sha256},
        "engines": {plan.root.name: plan.manifest_sha256 for plan in plans},
        "files": list_files(root),
    }
    write_json(root / MANIFEST, manifest)


def triton_problems(parent: Parent, engines: Sequence[EngineDirectory]) -> Iterator[str]:
    """Name what is wrong in ``triton/``, a line each; a bundle may do without it."""
    root = parent.root / TRITON
    again = f"write it again with python -m pipeline.build {parent.root} --triton"
    if root.is_symlink():
        yield f"{root}: a symbolic link, which no bundle holds; remove it"
        return
    if not root.exists():
        return
    try:
        manifest = parse_object(read_regular(root, MANIFEST, most=MAX_BYTES))
        if (schema := field(manifest, "", "schema", int)) != SCHEMA:
            raise ValueError(f"schema {schema}, expected {SCHEMA}")
        files = files_field(manifest, unlisted=(MANIFEST, SIGNATURE))
        made_of = sha256_field(field(manifest, "", "bundle", dict), "bundle", "manifest_sha256")
        used = field(manifest, "", "engines", dict)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        yield f"{root / MANIFEST}: {reason}; {again}"
        return
    if made_of != parent.manifest_sha256:
        yield f"{root / MANIFEST}: made of the bundle with manifest sha256 {made_of}; {again}"
    known = {engine.root.name: engine.manifest_sha256 for engine in engines}
    for name, sha256 in used.items():
        if known.get(name) != sha256:
            yield f"{root / MANIFEST}: made with an engine {name} that is not there; {again}"
    checker, listed = Checker(root, manifest), {*files, MANIFEST}
    for name in files:
        try:
            checker.path(name)
        except BundleError as error:
            yield str(error)
    for path in sorted(root.rglob("*")):
        if path.relative_to(root).as_posix() not in listed and not (
            path.is_dir() and not path.is_symlink()
        ):
            yield f"{path}: not in the manifest of {TRITON}/; remove it, or {again}"
