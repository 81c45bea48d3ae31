"""Write an engine's directory: the plan, what is in it, and the manifest that names its bundle."""

import json
from collections.abc import Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pipeline.bundle.engines import ENGINE_GRAPH, PLAN, SCHEMA, EngineDirectory, Parent
from pipeline.bundle.manifest import MANIFEST
from pipeline.contracts import Engine, sha256_file
from pipeline.files import link_or_copy, write_json

LAYERS = "layers.json"
"""What the plan runs, kernel by kernel (``pipeline.engines.layers``)."""


def write_engine(
    directory: Path,
    engine: Engine,
    parent: Parent,
    *,
    measured: Mapping[str, Any],
    settings: Mapping[str, Any],
    environment: Mapping[str, Any],
) -> EngineDirectory:
    """Write an engine's directory below ``directory``: plan, layers, manifest; return it.

    ``measured`` says what the proof gave on this machine, or why it was not run.

    Raises:
        OSError: it cannot be written.
    """
    root = directory / engine.name
    root.mkdir(parents=True)
    link_or_copy(engine.path, root / PLAN)
    if engine.layers is not None:
        link_or_copy(engine.layers, root / LAYERS)
    manifest = {
        "schema": SCHEMA,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "bundle": {
            "manifest_sha256": parent.manifest_sha256,
            "model": parent.manifest["model"]["name"],
            "precision": parent.manifest["precision"],
        },
        "graph": {"file": ENGINE_GRAPH, "sha256": engine.source_sha256},
        "runtime": engine.runtime,
        "runtime_version": engine.runtime_version,
        "target": engine.target,
        "version_compatible": engine.version_compatible,
        "profiles": [asdict(profile) for profile in engine.profiles],
        "inputs": [asdict(spec) for spec in engine.inputs],
        "outputs": [asdict(spec) for spec in engine.outputs],
        "layer_types": dict(engine.layer_types),
        "settings": dict(settings),
        "measured": dict(measured),
        "environment": dict(environment),
        "files": list_files(root),
    }
    write_json(root / MANIFEST, manifest)
    return EngineDirectory(
        root=root,
        manifest=json.loads(json.dumps(manifest)),
        manifest_sha256=sha256_file(root / MANIFEST),
    )


def list_files(root: Path) -> dict[str, dict[str, Any]]:
    """Return sha256 and size of every file below a directory, by name."""
    return {
        path.relative_to(root).as_posix(): {
            "sha256": sha256_file(path),
            "bytes": path.stat().st_size,
        }
        for path in sorted(root.rglob("*"))
        if path.is_file()
    }
