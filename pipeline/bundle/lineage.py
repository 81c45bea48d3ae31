"""Check what a manifest says of where its artifacts come from, and draw it as a tree."""

from collections.abc import Iterator, Mapping
from pathlib import PurePosixPath
from typing import Any

from pipeline.contracts import combined_sha256, graph_sha256

Manifest = Mapping[str, Any]


def lineage_problems(manifest: Manifest) -> list[str]:
    """Return what in the lineage contradicts itself or the files; one line each."""
    return [*_broken_steps(manifest), *_unknown_artifacts(manifest)]


def lineage_tree(manifest: Manifest) -> list[tuple[int, str, str]]:
    """Return depth, artifact and sha256 of every step, each below what it was made from.

    Steps that lead in a circle, or to one artifact by many ways, are drawn once.
    """
    made: dict[str | None, list[dict[str, Any]]] = {}
    for step in manifest["lineage"]:
        made.setdefault(step["from"], []).append(step)
    tree = []
    waiting = [(0, step) for step in reversed(made.pop(None, []))]
    while waiting:
        depth, step = waiting.pop()
        tree.append((depth, step["artifact"], step["sha256"]))
        waiting += [(depth + 1, below) for below in reversed(made.pop(step["sha256"], []))]
    return tree


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
            sha256 = graph_sha256(manifest["files"], name)
            if sha256 not in known:
                yield f"{name} (sha256 {_short(sha256)}) is not in the lineage"


def _short(sha256: str | None) -> str:
    return "nothing" if sha256 is None else f"{sha256[:12]}…"
