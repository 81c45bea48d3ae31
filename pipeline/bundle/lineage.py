"""Check what a manifest says of where its artifacts come from, and draw it as a tree."""

import hashlib
from collections.abc import Iterator, Mapping
from pathlib import PurePosixPath
from typing import Any

from pipeline.contracts import combined_sha256

Manifest = Mapping[str, Any]


def lineage_problems(manifest: Manifest) -> list[str]:
    """Return what in the lineage contradicts itself, the files or the engines; one line each."""
    return [*_broken_steps(manifest), *_unknown_artifacts(manifest), *_engines(manifest)]


def lineage_tree(manifest: Manifest) -> list[tuple[int, str, str]]:
    """Return depth, artifact and sha256 of every step, each below what it was made from."""
    return list(_below(manifest["lineage"], None, 0))


def _below(
    steps: list[dict[str, Any]], origin: str | None, depth: int
) -> Iterator[tuple[int, str, str]]:
    for step in steps:
        if step["from"] == origin:
            yield depth, step["artifact"], step["sha256"]
            if step["sha256"] != origin and depth < len(steps):
                yield from _below(steps, step["sha256"], depth + 1)


def _broken_steps(manifest: Manifest) -> Iterator[str]:
    model, steps = manifest["model"], manifest["lineage"]
    if combined_sha256(model["weights"]) != model["weights_sha256"]:
        yield "model.weights_sha256 is not that of the files in model.weights"
    if not steps or steps[0]["artifact"] != "weights" or steps[0]["from"] is not None:
        yield "the lineage does not begin with the weights"
    elif steps[0]["sha256"] != model["weights_sha256"]:
        yield "the lineage begins with other weights than model.weights_sha256"
    known: set[str] = set()
    for step in steps:
        if known and step["from"] not in known:
            yield (
                f"{step['artifact']} was made from {_short(step['from'])}, which is not above it "
                "in the lineage"
            )
        known.add(step["sha256"])


def _unknown_artifacts(manifest: Manifest) -> Iterator[str]:
    known = {step["sha256"] for step in manifest["lineage"]}
    if "model.onnx" not in manifest["files"]:
        yield "files has no model.onnx"
    for name in manifest["files"]:
        if PurePosixPath(name).suffix in (".onnx", ".plan"):
            sha256 = _artifact_sha256(manifest, name)
            if sha256 not in known:
                yield f"{name} (sha256 {_short(sha256)}) is not in the lineage"


def _engines(manifest: Manifest) -> Iterator[str]:
    steps = {step["artifact"]: step for step in manifest["lineage"]}
    for engine in manifest["engines"]:
        step = steps.get(engine["file"])
        if step is None:
            yield f"{engine['file']} has no step in the lineage"
        elif step["sha256"] != manifest["files"][engine["file"]]["sha256"]:
            yield f"{engine['file']} has another sha256 in the lineage than among files"
        elif step["from"] != engine["source_sha256"]:
            yield f"{engine['file']} was made from one graph by the lineage, another by engines"


def _artifact_sha256(manifest: Manifest, name: str) -> str:
    """Return a file's sha256, or its and its external data's (``graph.files.model_sha256``)."""
    files = manifest["files"]
    sha256: str = files[name]["sha256"]
    data = files.get(f"{name}.data")
    if data is None:
        return sha256
    return hashlib.sha256(f"{sha256} {data['sha256']}".encode()).hexdigest()


def _short(sha256: str | None) -> str:
    return "nothing" if sha256 is None else f"{sha256[:12]}…"
