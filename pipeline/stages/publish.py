"""Lay out the bundle, write its manifest, and put it in place by one rename."""

import json
import logging
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pipeline.bundle.bom import BOM, make_bom
from pipeline.bundle.manifest import MANIFEST, SCHEMA
from pipeline.bundle.place import publish_directory
from pipeline.bundle.signing import sign_bundle
from pipeline.bundle.triton.repository import write_triton
from pipeline.config import SigningConfig
from pipeline.contracts import CUDA_GRAPH, Engine, Graphs, Report, SourceModel, sha256_file
from pipeline.errors import PublishError
from pipeline.files import link_or_copy
from pipeline.graph.files import model_sha256
from pipeline.report.card import SOURCE_CARD, render_card
from pipeline.report.entries.report import bundle_name
from pipeline.report.html import render_html
from pipeline.report.junit import render_junit
from pipeline.report.markdown import render_markdown
from pipeline.source.origin import base_model, stated_license

log = logging.getLogger(__name__)

ENGINE_GRAPH = Path("tensorrt/model.onnx")
"""What engines are built from, in the bundle."""


def publish(
    *,
    source: SourceModel,
    fp32_sha256: str,
    graphs: Graphs,
    engines: Sequence[Engine],
    report: Report,
    config: Mapping[str, Any],
    work_dir: Path,
    target: Path,
    signing: SigningConfig,
    with_weights: bool = False,
) -> Path:
    """Publish the bundle as ``target``, signed where there is a key, and return it.

    ``with_weights`` puts the source's own weights in it, which Sentence Transformers loads.

    Raises:
        PublishError: a file changed since it was validated, the bundle cannot be written, or the
            key does not sign.
    """
    bundle = work_dir / "bundle"
    try:
        shutil.copytree(source.assets, bundle)
        _place(graphs.portable.path, bundle)
        _place(graphs.buildable.path, bundle / ENGINE_GRAPH.parent)
        if graphs.cuda is not None:
            _place(graphs.cuda.path, bundle / CUDA_GRAPH.parent)
        for engine in engines:
            _place(engine.path, bundle / "engines")
            if engine.layers is not None:
                _place(engine.layers, bundle / "engines")
        if with_weights:
            _place_weights(source, bundle)
        write_triton(bundle, source, graphs.portable, engines)
        write_report(report, bundle)
        expected = {bundle_name(engine.path): engine.sha256 for engine in engines}
        expected["model.onnx"] = graphs.portable.sha256
        expected[ENGINE_GRAPH.as_posix()] = graphs.buildable.sha256
        if graphs.cuda is not None:
            expected[CUDA_GRAPH.as_posix()] = graphs.cuda.sha256
        for name, sha256 in expected.items():
            if model_sha256(bundle / name) != sha256:
                raise PublishError(f"{name} changed after it was validated; run again")
        manifest = _manifest(source, fp32_sha256, graphs, engines, report, config)
        _write_cards(manifest, report.data, bundle)
        manifest["files"] = _list_files(bundle)
        (bundle / MANIFEST).write_text(_dump(manifest), "utf-8")
        if signing.key is not None:
            sign_bundle(bundle, Path(signing.key))
        sha256 = sha256_file(bundle / MANIFEST)
    except OSError as error:
        raise PublishError(
            f"cannot write the bundle in {work_dir}: {error.strerror or error}; set "
            "artifacts_dir to a directory with room for it"
        ) from error
    publish_directory(bundle, target)
    log.info("%s: sha256 %s", target / MANIFEST, sha256)
    return target


def reject(report: Report, work_dir: Path, target: Path) -> Path:
    """Write the report of a run that failed a gate to ``target``, and return it."""
    rejected = work_dir / "rejected"
    try:
        rejected.mkdir()
        write_report(report, rejected)
    except OSError as error:
        raise PublishError(f"cannot write {rejected}: {error.strerror or error}") from error
    publish_directory(rejected, target)
    return target


def write_report(report: Report, directory: Path) -> None:
    """Write report.json, report.html, report.md and junit.xml."""
    (directory / "report.json").write_text(_dump(report.data), "utf-8")
    (directory / "report.md").write_text(render_markdown(report.data), "utf-8")
    (directory / "report.html").write_text(render_html(report.data), "utf-8")
    (directory / "junit.xml").write_text(render_junit(report.data), "utf-8")


def _write_cards(manifest: Mapping[str, Any], report: Mapping[str, Any], bundle: Path) -> None:
    """Write the model card and the bill of materials; the source's card keeps another name."""
    card = bundle / "README.md"
    if card.exists():
        card.rename(bundle / SOURCE_CARD)
    card.write_text(render_card(manifest, report), "utf-8")
    (bundle / BOM).write_text(_dump(make_bom(manifest, report)), "utf-8")


def _place_weights(source: SourceModel, bundle: Path) -> None:
    """Copy the weights, and what says which shard holds what; never a link to another's file."""
    for name, sha256 in source.weights.items():
        (bundle / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source.path / name, bundle / name)
        if sha256_file(bundle / name) != sha256:
            raise PublishError(f"{source.path / name} changed since it was read; run again")
    for index in source.path.rglob("*.safetensors.index.json"):
        shutil.copyfile(index, bundle / index.relative_to(source.path))


def _dump(data: Mapping[str, Any]) -> str:
    return json.dumps(data, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def _place(path: Path, directory: Path) -> None:
    """Hard-link a file (and its external data) into the bundle, or copy it where links fail."""
    directory.mkdir(exist_ok=True)
    for file in (path, path.with_name(f"{path.name}.data")):
        if not file.exists():
            continue
        link_or_copy(file, directory / file.name)


def _list_files(bundle: Path) -> dict[str, dict[str, Any]]:
    return {
        path.relative_to(bundle).as_posix(): {
            "sha256": sha256_file(path),
            "bytes": path.stat().st_size,
        }
        for path in sorted(bundle.rglob("*"))
        if path.is_file()
    }


def _manifest(
    source: SourceModel,
    fp32_sha256: str,
    graphs: Graphs,
    engines: Sequence[Engine],
    report: Report,
    config: Mapping[str, Any],
) -> dict[str, Any]:
    return {
        "schema": SCHEMA,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "precision": report.data["precision"],
        "precision_type": graphs.portable.precision.value,
        "model": {
            "name": source.name,
            "id": source.location,
            "origin": source.origin,
            "revision": source.revision,
            "candidates": list(source.candidates),
            "weights": dict(source.weights),
            "weights_sha256": source.sha256,
            "modules": list(source.modules),
            "pooling": source.pooling,
            "max_length": source.max_length,
            "dimension": source.dimension,
            "prompts": dict(source.prompts),
            "default_prompt": source.default_prompt,
            "license": stated_license(source),
            "base_model": base_model(source, config),
            "source_card": (source.assets / "README.md").is_file(),
        },
        "graph": {
            "inputs": [asdict(spec) for spec in graphs.portable.inputs],
            "outputs": [asdict(spec) for spec in graphs.portable.outputs],
        },
        "engines": [
            {
                "file": bundle_name(engine.path),
                "runtime": engine.runtime,
                "runtime_version": engine.runtime_version,
                "target": engine.target,
                "profiles": [asdict(profile) for profile in engine.profiles],
                "inputs": [asdict(spec) for spec in engine.inputs],
                "outputs": [asdict(spec) for spec in engine.outputs],
                "layer_types": dict(engine.layer_types),
                "source_sha256": engine.source_sha256,
            }
            for engine in engines
        ],
        "cpu_runtime": _fastest_on_cpu(report.data),
        "lineage": _lineage(source, fp32_sha256, graphs, engines),
        "quantization": graphs.quantization,
        "environment": report.data["environment"],
        "config": dict(config),
    }


def _fastest_on_cpu(report: Mapping[str, Any]) -> str:
    """Return the runtime that ran ``model.onnx`` fastest: ``load`` prefers it."""
    speeds = {
        artifact["name"]: artifact["throughput"]["speedup"]["median"]
        for artifact in report["artifacts"]
        if artifact["executed"] and artifact["file"] == "model.onnx" and artifact["device"] == "cpu"
    }
    return max(speeds, key=lambda name: speeds[name], default="onnxruntime")


def _lineage(
    source: SourceModel, fp32_sha256: str, graphs: Graphs, engines: Sequence[Engine]
) -> list[dict[str, Any]]:
    """List every artifact with the sha256 of what it was made from, weights first."""
    chain: list[dict[str, Any]] = [
        {"artifact": "weights", "sha256": source.sha256, "from": None},
        {"artifact": "fp32 graph", "sha256": fp32_sha256, "from": source.sha256},
    ]
    made = {source.sha256, fp32_sha256}
    model, buildable = graphs.portable, graphs.buildable
    steps = [
        ("engine graph", buildable.source_sha256, fp32_sha256),
        ("model.onnx", model.sha256, model.source_sha256),
        (ENGINE_GRAPH.as_posix(), buildable.sha256, buildable.source_sha256),
    ]
    for artifact, sha256, origin in steps[buildable.source_sha256 == model.sha256 :]:
        if sha256 not in made:
            chain.append({"artifact": artifact, "sha256": sha256, "from": origin})
            made.add(sha256)
    if graphs.cuda is not None:
        cuda = graphs.cuda
        chain.append(
            {
                "artifact": CUDA_GRAPH.as_posix(),
                "sha256": cuda.sha256,
                "from": cuda.source_sha256,
            }
        )
    for engine in engines:
        chain.append(
            {
                "artifact": bundle_name(engine.path),
                "sha256": engine.sha256,
                "from": engine.source_sha256,
            }
        )
    return chain
