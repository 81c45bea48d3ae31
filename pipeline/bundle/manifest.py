"""Read ``manifest.json`` once, and check its shape before anything in it is used.

A bundle may come from anywhere: names that lead out of it, keys given twice and values of another
type are refused here, so that whoever holds a parsed manifest may rely on it.
"""

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

from pipeline.bundle.regular import read_regular
from pipeline.config import NumericType
from pipeline.errors import BundleError
from pipeline.files import read_json

MANIFEST = "manifest.json"
SIGNATURE = "model.sig"
"""The only two files that the manifest does not list."""

SCHEMA = 1
MAX_BYTES = 16 * 2**20
"""A manifest of a hundred files is 50 KiB; what is larger than this is none."""

RUNTIMES = ("tensorrt", "tensorrt_rtx")
"""What a plan may be for: the name is imported as a Python module."""

_SHA256 = re.compile(r"[0-9a-f]{64}")
_AGAIN = "publish the bundle again"
_KINDS = {str: "text", int: "an integer", dict: "an object", list: "a list", type(None): "null"}


def manifest_bytes(root: Path) -> bytes:
    """Return the bytes of ``manifest.json``.

    Raises:
        BundleError: there is none to read, it is no regular file, or it is too large to be one.
    """
    try:
        return read_regular(root, MANIFEST, most=MAX_BYTES)
    except FileNotFoundError as error:
        raise BundleError(
            f"{root} is not a bundle: {MANIFEST}: {error.strerror}; publish one with "
            "python -m pipeline"
        ) from error
    except OSError as error:
        raise BundleError(f"{root / MANIFEST}: {error.strerror or error}; {_AGAIN}") from error


def find_manifest(bundle: Path) -> dict[str, Any]:
    """Return what ``manifest.json`` says, unchecked; empty where there is none that can be read.

    For what is only shown or remembered: who opens the files it names needs ``parse_manifest``.
    """
    return read_json(bundle / MANIFEST) or {}


def parse_manifest(root: Path, content: bytes, *, sha256: str | None = None) -> dict[str, Any]:
    """Return the manifest in ``content``, which was read in ``root``.

    ``sha256`` pins it: that of the manifest which is meant, as publishing it printed.

    Raises:
        BundleError: not the one pinned, not JSON, a key given twice, another schema, a key missing
            or of another type, or a file name that leads out of the bundle.
    """
    path = root / MANIFEST
    seen = hashlib.sha256(content).hexdigest()
    if sha256 is not None and seen != sha256.lower():
        raise BundleError(
            f"{path}: sha256 {seen}, expected {sha256}: not the manifest that was pinned; fetch "
            "the bundle again, or pin this one if it is meant"
        )
    try:
        manifest = json.loads(
            content.decode("utf-8"),
            object_pairs_hook=_without_duplicates,
            parse_constant=_refuse_constant,
        )
    except (ValueError, RecursionError) as error:
        raise BundleError(f"{path}: not JSON: {error}; {_AGAIN}") from error
    try:
        _check(manifest)
    except _NewerError as error:
        raise BundleError(f"{path}: {error}") from error
    except ValueError as error:
        raise BundleError(f"{path}: {error}; {_AGAIN}") from error
    checked: dict[str, Any] = manifest
    return checked


class _NewerError(ValueError):
    """The manifest is of a later version."""


def _check(manifest: Any) -> None:
    if not isinstance(manifest, dict):
        raise ValueError(f"{_kind(manifest)}, expected an object")
    schema = _field(manifest, "", "schema", int)
    if schema > SCHEMA:
        raise _NewerError(
            f"schema {schema} is newer than this version of sentence-transformer-trt reads "
            f"({SCHEMA}): update it"
        )
    if schema != SCHEMA:
        raise ValueError(f"schema {schema}, expected {SCHEMA}")
    _field(manifest, "", "precision", str)
    _choice(manifest, "", "precision_type", tuple(NumericType))
    _check_model(_field(manifest, "", "model", dict))
    files = _check_files(_field(manifest, "", "files", dict))
    for i, engine in enumerate(_field(manifest, "", "engines", list)):
        where = f"engines[{i}]"
        _object(engine, where)
        if _field(engine, where, "file", str) not in files:
            raise ValueError(f"{where}.file {engine['file']!r} is not among files")
        _choice(engine, where, "runtime", RUNTIMES)
        for key in ("runtime_version", "target"):
            _field(engine, where, key, str)
        _sha256(engine, where, "source_sha256")
    for i, step in enumerate(_field(manifest, "", "lineage", list)):
        where = f"lineage[{i}]"
        _object(step, where)
        _field(step, where, "artifact", str)
        _sha256(step, where, "sha256")
        if _field(step, where, "from", (str, type(None))) is not None:
            _sha256(step, where, "from")
    if "cpu_runtime" in manifest:
        _field(manifest, "", "cpu_runtime", str)


def _check_model(model: Mapping[str, Any]) -> None:
    _field(model, "model", "name", str)
    _sha256(model, "model", "weights_sha256")
    for name in _field(model, "model", "weights", dict):
        _sha256(model["weights"], "model.weights", name)
    for key in ("max_length", "dimension"):
        if _field(model, "model", key, int) < 1:
            raise ValueError(f"model.{key} is {model[key]}, expected 1 or more")
    prompts = _field(model, "model", "prompts", dict)
    for name in prompts:
        _field(prompts, "model.prompts", name, str)
    default = _field(model, "model", "default_prompt", (str, type(None)))
    if default is not None and default not in prompts:
        raise ValueError(f"model.default_prompt {default!r} is not among model.prompts")


def _check_files(files: dict[str, Any]) -> dict[str, Any]:
    for name, entry in files.items():
        parts = name.split("/")
        if "\\" in name or ":" in name or not name.isprintable() or {"", ".", ".."} & set(parts):
            raise ValueError(f"files: {name!r} is not a plain name below the bundle")
        if name in (MANIFEST, SIGNATURE):
            raise ValueError(f"files: {name} cannot be listed: it is written last")
        where = f"files[{name!r}]"
        _object(entry, where)
        _sha256(entry, where, "sha256")
        if _field(entry, where, "bytes", int) < 0:
            raise ValueError(f"{where}.bytes is {entry['bytes']}, expected 0 or more")
    return files


def _field(node: Mapping[str, Any], where: str, key: str, kind: type | tuple[type, ...]) -> Any:
    """Return a value of the type expected; ``true`` is no integer."""
    name = f"{where}.{key}" if where else key
    if key not in node:
        raise ValueError(f"lacks {name}")
    value = node[key]
    if not isinstance(value, kind) or isinstance(value, bool):
        kinds = kind if isinstance(kind, tuple) else (kind,)
        expected = " or ".join(_KINDS[each] for each in kinds)
        raise ValueError(f"{name} is {_kind(value)}, expected {expected}")
    return value


def _object(value: Any, where: str) -> None:
    if not isinstance(value, dict):
        raise ValueError(f"{where} is {_kind(value)}, expected an object")


def _sha256(node: Mapping[str, Any], where: str, key: str) -> None:
    if not _SHA256.fullmatch(_field(node, where, key, str)):
        raise ValueError(f"{where}.{key} is no sha256 of 64 hex digits")


def _choice(node: Mapping[str, Any], where: str, key: str, choices: tuple[str, ...]) -> None:
    value = _field(node, where, key, str)
    if value not in choices:
        name = f"{where}.{key}" if where else key
        raise ValueError(f"{name} is {value[:40]!r}, expected one of {', '.join(choices)}")


def _kind(value: Any) -> str:
    return {bool: "true or false", float: "a fraction"}.get(type(value)) or _KINDS[type(value)]


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Python takes the last of two equal keys, others the first: a file with both is a trick."""
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"key {next(n for n in names if names.count(n) > 1)!r} is given twice")
    return found


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON")
