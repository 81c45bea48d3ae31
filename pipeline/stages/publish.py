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
from pipeline.bundle.engine_writing import list_files, write_engine
from pipeline.bundle.engines import ENGINE_GRAPH, EngineDirectory, Parent, open_parent
from pipeline.bundle.manifest import ENGINES, MANIFEST, SCHEMA, TRITON
from pipeline.bundle.place import publish_directory
from pipeline.bundle.proof import Proof, write_proof
from pipeline.bundle.ranges import place_ranges
from pipeline.bundle.signing import sign_bundle
from pipeline.bundle.triton.repository import write_triton
from pipeline.config import SigningConfig
from pipeline.contracts import (
    CUDA_GRAPH,
    EmbeddingRanges,
    Engine,
    Graphs,
    OnnxModel,
    Report,
    SourceModel,
    sha256_file,
)
from pipeline.errors import BundleError, PublishError
from pipeline.files import link_or_copy
from pipeline.graph.files import model_sha256
from pipeline.report.card import SOURCE_CARD, render_card
from pipeline.report.html import render_html
from pipeline.report.junit import render_junit
from pipeline.report.markdown import render_markdown
from pipeline.runtime.reopening import not_loaded, require_reopened
from pipeline.source.origin import base_model, stated_license

log = logging.getLogger(__name__)


def publish(
    *,
    source: SourceModel,
    fp32_sha256: str,
    graphs: Graphs,
    engines: Sequence[Engine],
    report: Report,
    proof: Proof | None,
    ranges: EmbeddingRanges,
    config: Mapping[str, Any],
    work_dir: Path,
    target: Path,
    signing: SigningConfig,
    with_weights: bool = False,
) -> Path:
    """Publish the bundle as ``target``, signed where there is a key, and return it.

    ``with_weights`` puts the source's own weights in it, which Sentence Transformers loads.

    Raises:
        PublishError: a file changed since it was validated, the bundle cannot be written, the key
            does not sign, or what was written does not load and encode as validation saw.
    """
    bundle = work_dir / "bundle"
    key = None if signing.key is None else Path(signing.key)
    try:
        shutil.copytree(source.assets, bundle)
        _place(graphs.portable, bundle / "model.onnx")
        _place(graphs.buildable, bundle / ENGINE_GRAPH)
        if graphs.cuda is not None:
            _place(graphs.cuda, bundle / CUDA_GRAPH)
        if with_weights:
            _place_weights(source, bundle)
        write_report(report, bundle)
        manifest = _manifest(source, fp32_sha256, graphs, report, config)
        manifest["check"] = None if proof is None else write_proof(proof, bundle)
        manifest["embedding_ranges"] = place_ranges(ranges, bundle)
        _write_cards(manifest, report.data, bundle)
        manifest["files"] = list_files(bundle)
        (bundle / MANIFEST).write_text(_dump(manifest), "utf-8")
        if key is not None:
            sign_bundle(bundle, key)
        parent = open_parent(bundle)
        added = [_add_engine(engine, parent, report, config, key) for engine in engines]
        write_triton(bundle / TRITON, parent, added)
    except OSError as error:
        raise PublishError(
            f"cannot write the bundle in {work_dir}: {error.strerror or error}; set "
            "artifacts_dir to a directory with room for it"
        ) from error
    except BundleError as error:
        raise not_loaded(bundle, error) from error
    require_reopened(parent, added, report.data["artifacts"], proof)
    publish_directory(bundle, target)
    log.info("%s: sha256 %s", target / MANIFEST, parent.manifest_sha256)
    return target


def _add_engine(
    engine: Engine,
    parent: Parent,
    report: Report,
    config: Mapping[str, Any],
    key: Path | None,
) -> EngineDirectory:
    """Add what was built in this run as what is built later is added."""
    if sha256_file(engine.path) != engine.sha256:
        raise PublishError(f"{engine.path.name} changed after it was validated; run again")
    entries = {artifact["file"]: artifact for artifact in report.data["artifacts"]}
    kept = ("executed", "reason", "device", "agreement", "throughput", "latency_ms", "gates")
    added = write_engine(
        parent.root / ENGINES,
        engine,
        parent,
        measured={k: v for k, v in entries[engine.file].items() if k in kept},
        settings=config.get("engine", {}),
        environment=report.data["environment"],
    )
    if key is not None:
        sign_bundle(added.root, key)
    return added


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


def _place(model: OnnxModel, path: Path) -> None:
    """Hard-link a graph (and its external data) into the bundle, or copy it where links fail.

    Raises:
        PublishError: it is not what was validated.
    """
    path.parent.mkdir(exist_ok=True)
    for source, target in (
        (model.path, path),
        (model.path.with_name(f"{model.path.name}.data"), path.with_name(f"{path.name}.data")),
    ):
        if source.exists():
            link_or_copy(source, target)
    if model_sha256(path) != model.sha256:
        raise PublishError(f"{path.name} changed after it was validated; run again")


def _manifest(
    source: SourceModel,
    fp32_sha256: str,
    graphs: Graphs,
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
        "cpu_runtime": _fastest_on_cpu(report.data),
        "lineage": _lineage(source, fp32_sha256, graphs),
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


def _lineage(source: SourceModel, fp32_sha256: str, graphs: Graphs) -> list[dict[str, Any]]:
    """List every graph with the sha256 of what it was made from, weights first."""
    chain: list[dict[str, Any]] = [
        {"artifact": "weights", "sha256": source.sha256, "from": None},
        {"artifact": "fp32 graph", "sha256": fp32_sha256, "from": source.sha256},
    ]
    made = {source.sha256, fp32_sha256}
    model, buildable = graphs.portable, graphs.buildable
    as_made = buildable.sha256 == buildable.source_sha256  # no weights of it are shared
    steps = [
        (ENGINE_GRAPH if as_made else "engine graph", buildable.source_sha256, fp32_sha256),
        ("model.onnx", model.sha256, model.source_sha256),
        (ENGINE_GRAPH, buildable.sha256, buildable.source_sha256),
    ]
    for artifact, sha256, origin in steps[buildable.source_sha256 == model.sha256 :]:
        if sha256 not in made:
            chain.append({"artifact": artifact, "sha256": sha256, "from": origin})
            made.add(sha256)
    if graphs.cuda is not None:
        name, cuda = CUDA_GRAPH.as_posix(), graphs.cuda
        chain.append({"artifact": name, "sha256": cuda.sha256, "from": cuda.source_sha256})
    return chain
