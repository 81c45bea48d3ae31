"""A published bundle on disk: its manifest, and its files once their sha256 is the manifest's."""

import json
from pathlib import Path
from typing import Any

from pipeline.contracts import sha256_file
from pipeline.errors import BundleError

_MANIFEST_KEYS = ("model", "precision_type", "engines", "files")


def manifest_text(root: Path) -> str:
    """Return ``manifest.json`` as it stands.

    Raises:
        BundleError: there is none to read.
    """
    try:
        return (root / "manifest.json").read_text("utf-8")
    except (OSError, ValueError) as error:
        raise BundleError(
            f"{root} is not a bundle: manifest.json: {error}; publish one with python -m pipeline"
        ) from error


def parse_manifest(root: Path, text: str) -> dict[str, Any]:
    """Return the manifest in ``text``, which was read in ``root``.

    Raises:
        BundleError: not JSON, another schema, or a key is missing.
    """
    path = root / "manifest.json"
    try:
        manifest: dict[str, Any] = json.loads(text)
    except ValueError as error:
        raise BundleError(f"{path}: not JSON: {error}; publish the bundle again") from error
    if not isinstance(manifest, dict) or manifest.get("schema") != 1:
        seen = manifest.get("schema") if isinstance(manifest, dict) else type(manifest).__name__
        raise BundleError(f"{path}: schema {seen}, expected 1; publish the bundle again")
    missing = [key for key in _MANIFEST_KEYS if key not in manifest]
    if missing:
        raise BundleError(f"{path}: lacks {', '.join(missing)}; publish the bundle again")
    return manifest


class Checker:
    """Gives out paths of a bundle's files once their sha256 is the manifest's."""

    def __init__(self, root: Path, manifest: dict[str, Any]) -> None:
        """Check against a manifest that ``parse_manifest`` returned."""
        self._root = root
        self._files: dict[str, dict[str, Any]] = manifest["files"]

    def path(self, name: str) -> Path:
        """Return where a file is.

        Raises:
            BundleError: not in the manifest, outside the bundle, missing, or changed.
        """
        path = self._root / name
        if name not in self._files:
            raise BundleError(f"{path}: not in the manifest; publish the bundle again")
        if not path.resolve().is_relative_to(self._root.resolve()):
            raise BundleError(f"{path}: leads out of the bundle")
        if not path.is_file():
            raise BundleError(f"{path}: missing; publish the bundle again")
        seen, expected = sha256_file(path), self._files[name]["sha256"]
        if seen != expected:
            raise BundleError(
                f"{path}: sha256 {seen}, the manifest says {expected}: the file was changed after "
                "publishing; publish the bundle again"
            )
        return path

    def has(self, name: str) -> bool:
        """Whether the manifest lists the file."""
        return name in self._files
