"""A bundle of one graph, as publish lays it out, without a run of the pipeline."""

import json
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pipeline.contracts import OnnxModel, SourceModel, sha256_file


def write_bundle(directory: Path, source: SourceModel, model: OnnxModel) -> Path:
    """Write the assets, ``model.onnx`` and what of the manifest ``load`` reads."""
    shutil.copytree(source.assets, directory)
    shutil.copyfile(model.path, directory / "model.onnx")
    files = {
        path.relative_to(directory).as_posix(): {
            "sha256": sha256_file(path),
            "bytes": path.stat().st_size,
        }
        for path in sorted(directory.rglob("*"))
        if path.is_file()
    }
    manifest: dict[str, Any] = {
        "schema": 2,
        "precision": model.precision.value,
        "precision_type": model.precision.value,
        "cpu_runtime": "onnxruntime",
        "model": {
            "name": source.name,
            "weights": dict(source.weights),
            "weights_sha256": source.sha256,
            "max_length": source.max_length,
            "dimension": source.dimension,
            "prompts": dict(source.prompts),
            "default_prompt": source.default_prompt,
        },
        "graph": {
            "inputs": [asdict(spec) for spec in model.inputs],
            "outputs": [asdict(spec) for spec in model.outputs],
        },
        "config": {},
        "check": None,
        "lineage": [],
        "files": files,
    }
    (directory / "manifest.json").write_text(json.dumps(manifest), "utf-8")
    return directory
