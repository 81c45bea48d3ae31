"""A bundle as the publish stage writes it, in a second: a real graph, a plan of random bytes."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from example_report import executed, int8, plan

from pipeline.config import SigningConfig
from pipeline.contracts import Engine, Graphs, OnnxModel, Report, SourceModel, sha256_file
from pipeline.stages.publish import publish

PLAN = "engines/tensorrt_rtx-ampere_plus.plan"


def publish_tiny(
    source: SourceModel,
    fp32: OnnxModel,
    work: Path,
    target: Path,
    *,
    key: Path | None = None,
    settings: Mapping[str, Any] | None = None,
    with_weights: bool = False,
) -> Path:
    """Publish a bundle of the graph and a plan; its report's measurements are made up."""
    path = work / PLAN
    path.parent.mkdir(parents=True)
    path.write_bytes(bytes(range(256)) * 64)
    engine = Engine(
        path=path,
        sha256=sha256_file(path),
        runtime="tensorrt_rtx",
        runtime_version="1.7.1",
        target="ampere_plus",
        profiles=(),
        inputs=fp32.inputs,
        outputs=fp32.outputs,
        layer_types={},
        source_sha256=fp32.sha256,
    )
    return publish(
        source=source,
        fp32_sha256=fp32.sha256,
        graphs=Graphs(portable=fp32, buildable=fp32, quantization=int8()["quantization"]),
        engines=[engine],
        report=Report(passed=True, failed_gates=(), data=_report(source, fp32, engine)),
        config=settings or {},
        work_dir=work,
        target=target,
        signing=SigningConfig(key=None if key is None else str(key)),
        with_weights=with_weights,
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


def list_again(bundle: Path, name: str) -> None:
    """Make the manifest agree with a file that was changed, as whoever may write there could."""
    manifest = manifest_of(bundle)
    path = bundle / name
    manifest["files"][name] = {"sha256": sha256_file(path), "bytes": path.stat().st_size}
    write_manifest(bundle, manifest)


def flip(path: Path) -> None:
    """Change one bit in the middle of a file."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0x01
    path.write_bytes(content)
