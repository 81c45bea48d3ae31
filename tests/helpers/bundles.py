"""A bundle as the publish stage writes it, in a second: a real graph, a plan of random bytes."""

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from example_report import executed, int8, plan

from pipeline.bundle.engines import open_parent, read_engines
from pipeline.bundle.proof import Proof
from pipeline.bundle.triton.repository import write_triton
from pipeline.config import SigningConfig
from pipeline.contracts import (
    EmbeddingRanges,
    Engine,
    Graphs,
    OnnxModel,
    Profile,
    Report,
    SourceModel,
    sha256_file,
)
from pipeline.engines.onnxruntime import OnnxRuntimeEncoder
from pipeline.measure.bench import text_encoder
from pipeline.stages.publish import publish
from pipeline.text.tokens import Tokenizer

ENGINE = "engines/tensorrt_rtx-1.7.1-ampere_plus"
PLAN = f"{ENGINE}/model.plan"
GATES = {
    "cosine.mean": 0.99999,
    "cosine.p1": 0.9999,
    "invariance.batch": 0.9999,
    "invariance.padding": 0.9999,
    "vectors.finite": 1.0,
    "vectors.nonzero": 1.0,
}


def publish_tiny(
    source: SourceModel,
    fp32: OnnxModel,
    work: Path,
    target: Path,
    *,
    key: Path | None = None,
    settings: Mapping[str, Any] | None = None,
    with_weights: bool = False,
    cuda: OnnxModel | None = None,
    measured: Sequence[Mapping[str, Any]] | None = None,
) -> Path:
    """Publish a bundle of the graph and a plan; its report's measurements are made up.

    ``cuda`` is the graph that is published as ``cuda/model.onnx``; ``measured`` are the artifacts
    of the report beside the plan, where it matters which.
    """
    path = work / "rtx.plan"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(bytes(range(256)) * 64)
    profile = Profile(min=(1, 1), opt=(16, 48), max=(64, 48))
    engine = Engine(
        path=path,
        sha256=sha256_file(path),
        runtime="tensorrt_rtx",
        runtime_version="1.7.1",
        target="ampere_plus",
        profiles=(profile,),
        inputs=fp32.inputs,
        outputs=fp32.outputs,
        layer_types={},
        source_sha256=fp32.sha256,
    )
    proof = make_proof(source, fp32)
    data = _report(source, fp32, engine)
    if measured is not None:
        data["artifacts"] = [*measured, data["artifacts"][-1]]
    return publish(
        source=source,
        fp32_sha256=fp32.sha256,
        graphs=Graphs(
            portable=fp32, buildable=fp32, quantization=int8()["quantization"], cuda=cuda
        ),
        engines=[engine],
        report=Report(passed=True, failed_gates=(), data=data),
        proof=proof,
        ranges=make_ranges(source, proof, work),
        config=settings or {},
        work_dir=work,
        target=target,
        signing=SigningConfig(key=None if key is None else str(key)),
        with_weights=with_weights,
    )


def make_proof(source: SourceModel, fp32: OnnxModel) -> Proof:
    """Return texts of many lengths and the fp32 graph's vectors of them."""
    tokenizer = Tokenizer(source.assets, max_length=source.max_length)
    encoder = text_encoder(source, tokenizer, OnnxRuntimeEncoder(fp32.path))
    texts = [" ".join(f"word{i * j % 97}" for j in range(i)) for i in range(1, 49)]
    return Proof(texts=texts, vectors=encoder.encode(texts), gates=GATES)


def make_ranges(source: SourceModel, proof: Proof, work: Path) -> EmbeddingRanges:
    """Return the ranges of the proof's vectors."""
    path = work / "embedding_ranges.npy"
    np.save(path, np.stack((proof.vectors.min(axis=0), proof.vectors.max(axis=0))))
    return EmbeddingRanges(
        path=path,
        sha256=sha256_file(path),
        texts=len(proof.texts),
        norm_min=1.0,
        norm_max=1.0,
        source_sha256=source.sha256,
    )


def _report(source: SourceModel, fp32: OnnxModel, engine: Engine) -> dict[str, Any]:
    data = int8() | {"model": source.name, "published": []}
    data["source"] |= {"weights_sha256": source.sha256, "location": source.location}
    data["artifacts"] = [
        executed() | {"bytes": fp32.path.stat().st_size},
        plan() | {"bytes": engine.path.stat().st_size},
    ]
    return data


def manifest_of(bundle: Path) -> dict[str, Any]:
    """Read a bundle's manifest as it stands."""
    manifest: dict[str, Any] = json.loads((bundle / "manifest.json").read_text("utf-8"))
    return manifest


def write_manifest(bundle: Path, manifest: Mapping[str, Any]) -> None:
    """Put another manifest in its place."""
    (bundle / "manifest.json").write_text(json.dumps(manifest, indent=2), "utf-8")


def list_again(root: Path, name: str) -> None:
    """Make a manifest agree with a file that was changed, as whoever may write there could."""
    manifest = manifest_of(root)
    path = root / name
    manifest["files"][name] = {"sha256": sha256_file(path), "bytes": path.stat().st_size}
    write_manifest(root, manifest)


def bind_again(bundle: Path) -> None:
    """Make engines and Triton repository of the manifest as it is now."""
    sha256 = sha256_file(bundle / "manifest.json")
    for path in bundle.glob("engines/*/manifest.json"):
        manifest = manifest_of(path.parent)
        manifest["bundle"]["manifest_sha256"] = sha256
        write_manifest(path.parent, manifest)
    parent = open_parent(bundle)
    shutil.rmtree(bundle / "triton")
    write_triton(bundle / "triton", parent, list(read_engines(parent)))


def add_engine(bundle: Path, target: str) -> str:
    """Add a TensorRT engine like the one that is there, and return its name."""
    name = f"tensorrt-11.2.1-{target}"
    shutil.copytree(bundle / ENGINE, bundle / "engines" / name)
    manifest = manifest_of(bundle / "engines" / name)
    manifest |= {"runtime": "tensorrt", "runtime_version": "11.2.1", "target": target}
    write_manifest(bundle / "engines" / name, manifest)
    (bundle / "engines" / name / "model.plan").write_bytes(target.encode() * 1000)
    list_again(bundle / "engines" / name, "model.plan")
    bind_again(bundle)
    return name


def flip(path: Path) -> None:
    """Change one bit in the middle of a file."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0x01
    path.write_bytes(content)
