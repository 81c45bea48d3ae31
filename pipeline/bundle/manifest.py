"""Read ``manifest.json`` once, and check its shape before anything in it is used.

A bundle may come from anywhere: names that lead out of it, keys given twice and values of another
type are refused here, so that whoever holds a parsed manifest may rely on it.
"""

import hashlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.bundle.fields import (
    choice,
    field,
    files_field,
    parse_object,
    require_object,
    sha256_field,
)
from pipeline.bundle.regular import read_regular
from pipeline.config import NumericType
from pipeline.contracts import GRAPH_INPUTS, GRAPH_OUTPUT
from pipeline.errors import BundleError
from pipeline.files import parse_json

MANIFEST = "manifest.json"
SIGNATURE = "model.sig"
"""The only two files of the bundle itself that the manifest does not list."""

ENGINES = "engines"
TRITON = "triton"
"""What is made of a bundle later, too: directories that hold manifests of their own."""

SCHEMA = 2
MAX_BYTES = 16 * 2**20
"""A manifest of a hundred files is 50 KiB; what is larger than this is none."""

_AGAIN = "publish the bundle again"

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}")
"""A model's or precision's name: it becomes a directory, and part of a server's configuration."""


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
    try:
        found = parse_json(read_regular(bundle, MANIFEST, most=MAX_BYTES))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


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
        manifest = parse_object(content)
        _check(manifest)
    except _NewerError as error:
        raise BundleError(f"{path}: {error}") from error
    except ValueError as error:
        raise BundleError(f"{path}: {error}; {_AGAIN}") from error
    return manifest


class _NewerError(ValueError):
    """The manifest is of a later version."""


def _check(manifest: dict[str, Any]) -> None:
    schema = field(manifest, "", "schema", int)
    if schema > SCHEMA:
        raise _NewerError(
            f"schema {schema} is newer than this version of sentence-transformer-trt reads "
            f"({SCHEMA}): update it"
        )
    if schema != SCHEMA:
        raise ValueError(f"schema {schema}, expected {SCHEMA}")
    _check_name(manifest, "", "precision")
    choice(manifest, "", "precision_type", tuple(NumericType))
    _check_model(field(manifest, "", "model", dict))
    _check_graph(field(manifest, "", "graph", dict))
    config = field(manifest, "", "config", dict)
    field({"engine": {}} | config, "config", "engine", dict)
    files = files_field(manifest, unlisted=(MANIFEST, SIGNATURE))
    for name in files:
        if name.split("/")[0] in (ENGINES, TRITON):
            raise ValueError(f"files: {name} cannot be listed: {name.split('/')[0]}/ is made later")
    for i, step in enumerate(field(manifest, "", "lineage", list)):
        where = f"lineage[{i}]"
        require_object(step, where)
        field(step, where, "artifact", str)
        sha256_field(step, where, "sha256")
        if field(step, where, "from", (str, type(None))) is not None:
            sha256_field(step, where, "from")
    if "cpu_runtime" in manifest:
        field(manifest, "", "cpu_runtime", str)
    if field(manifest, "", "check", (dict, type(None))) is not None:
        _check_proof(manifest["check"])

    if (ranges := manifest.get("embedding_ranges")) is not None:
        require_object(ranges, "embedding_ranges")
        norm = field(ranges, "embedding_ranges", "norm", dict)
        for end in ("min", "max"):
            field(norm, "embedding_ranges.norm", end, (float, int))


def _check_proof(check: Mapping[str, Any]) -> None:
    gates = field(check, "check", "gates", dict)
    for name in gates:
        field(gates, "check.gates", name, (float, int))


def _check_graph(graph: Mapping[str, Any]) -> None:
    for key, known in (("inputs", GRAPH_INPUTS), ("outputs", (GRAPH_OUTPUT,))):
        for i, spec in enumerate(field(graph, "graph", key, list)):
            where = f"graph.{key}[{i}]"
            require_object(spec, where)
            choice(spec, where, "name", known)
            field(spec, where, "dtype", str)
            field(spec, where, "shape", list)


def _check_name(node: Mapping[str, Any], where: str, key: str) -> None:
    name = field(node, where, key, str)
    if not _NAME.fullmatch(name):
        named = f"{where}.{key}" if where else key
        raise ValueError(
            f"{named} is {name[:40]!r}, expected letters, digits, '.', '-' and '_': it names a "
            "directory"
        )


def _check_model(model: Mapping[str, Any]) -> None:
    _check_name(model, "model", "name")
    sha256_field(model, "model", "weights_sha256")
    for name in field(model, "model", "weights", dict):
        sha256_field(model["weights"], "model.weights", name)
    for key in ("max_length", "dimension"):
        if field(model, "model", key, int) < 1:
            raise ValueError(f"model.{key} is {model[key]}, expected 1 or more")
    prompts = field(model, "model", "prompts", dict)
    for name in prompts:
        field(prompts, "model.prompts", name, str)
    default = field(model, "model", "default_prompt", (str, type(None)))
    if default is not None and default not in prompts:
        raise ValueError(f"model.default_prompt {default!r} is not among model.prompts")
