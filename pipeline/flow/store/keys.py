"""Name what a stage's output depends on, as parts that hash to the store's key.

The names are what the log says when a stage is done anew: ``quantize: calibration text changed``.
"""

import ast
import functools
import hashlib
import json
import platform
from collections.abc import Iterable, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

_ROOT = "pipeline"

PACKAGE = Path(__file__).parents[2]
"""Where the source of ``pipeline`` is."""

Parts = Mapping[str, str]
"""Each part's sha256, or its words, by name."""


def key_of(stage: str, parts: Parts) -> str:
    """Return the key of a stage's output: 64 hex digits."""
    return digest([stage, dict(parts)])


def digest(value: Any) -> str:
    """Return the sha256 of a value as canonical JSON; what JSON does not know goes in as text."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def tree_sha256(directory: Path) -> str:
    """Return one sha256 of every file below a directory, by relative path; dot files are left out.

    Raises:
        OSError: a file cannot be read.
    """
    lines = []
    for path in sorted(directory.rglob("*")):
        relative = path.relative_to(directory)
        if any(part.startswith((".", "__pycache__")) for part in relative.parts):
            continue
        if path.is_file():
            with path.open("rb") as stream:
                lines.append(
                    f"{hashlib.file_digest(stream, 'sha256').hexdigest()}  {relative.as_posix()}"
                )
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def versions(packages: Iterable[str]) -> str:
    """Return Python's version and that of each package, as words."""
    found = [f"python {platform.python_version()}"]
    for package in sorted(packages):
        try:
            found.append(f"{package} {metadata.version(package)}")
        except metadata.PackageNotFoundError:
            found.append(f"{package} absent")
    return ", ".join(found)


@functools.cache
def code_sha256(module: str, package: Path = PACKAGE) -> str:
    """Return the sha256 of a module's source and of all of ``pipeline`` that it imports.

    Found in the source below ``package``, without importing anything: a change anywhere in what a
    stage runs gives another key, and a change elsewhere does not.
    """
    sources = {name: path.read_bytes() for name, path in imported(module, package).items()}
    return digest({name: hashlib.sha256(text).hexdigest() for name, text in sources.items()})


def imported(module: str, package: Path = PACKAGE) -> dict[str, Path]:
    """Return a module of ``pipeline`` and all of it that it imports, with their files, by name."""
    found: dict[str, Path] = {}
    waiting = [module]
    while waiting:
        name = waiting.pop()
        path = _source_of(name, package)
        if name in found or path is None:  # None: a name that a module holds, not a module
            continue
        found[name] = path
        waiting += _imports(ast.parse(path.read_bytes()))
    return found


def _source_of(module: str, package: Path) -> Path | None:
    stem = package.joinpath(*module.split(".")[1:])
    files = (path for path in (stem.with_suffix(".py"), stem / "__init__.py") if path.is_file())
    return next(files, None)


def _imports(tree: ast.AST) -> list[str]:
    """Return the modules of ``pipeline`` that a source may import, at the top or inside."""
    names: list[str] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            names += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    return [name for name in names if name == _ROOT or name.startswith(f"{_ROOT}.")]
