"""Read bundles' reports from disk, and tell whether two of them measured the same thing."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.bundle.regular import read_regular
from pipeline.errors import BundleError
from pipeline.files import parse_json
from pipeline.report.plots.tradeoff import main_task

_KEYS = (
    "model",
    "precision",
    "status",
    "failed_gates",
    "source",
    "reference",
    "dataset",
    "dataset_sha256",
    "environment",
    "artifacts",
)
"""What comparing reads of a report, whatever its artifacts are."""


_MOST = 64 * 2**20
"""Bytes; a report is of some hundred KiB."""


def read_report(bundle: Path) -> dict[str, Any]:
    """Return a bundle's report.json, or that of a run that failed its gates.

    Raises:
        BundleError: there is none, or it is not one of schema 1.
    """
    path = bundle / "report.json"
    try:
        data = parse_json(read_regular(bundle, path.name, most=_MOST))
    except FileNotFoundError as error:
        raise BundleError(f"{bundle}: no report.json") from error
    except OSError as error:
        raise BundleError(f"{bundle}: report.json: {error.strerror or error}") from error
    except ValueError as error:
        raise BundleError(f"{path}: not JSON: {error}") from error
    if not isinstance(data, dict) or any(key not in data for key in _KEYS):
        raise BundleError(f"{path}: not a report of this pipeline")
    if data.get("schema") != 1:
        raise BundleError(f"{path}: schema {data.get('schema')!r}, expected 1")
    return data


def difference(data: Mapping[str, Any], other: Mapping[str, Any]) -> str | None:
    """Return why two reports' numbers cannot stand side by side, or None where they can.

    They can where the weights, the evaluation texts and the machine are the same: quality needs
    the first two, speed needs all.
    """
    if data["source"]["weights_sha256"] != other["source"]["weights_sha256"]:
        return "other weights"
    ours, theirs = data["dataset_sha256"], other["dataset_sha256"]
    if data["dataset"] != other["dataset"] or (ours and theirs and ours != theirs):
        return "another data set"
    if bool(ours) != bool(theirs):
        return "data set not recorded"
    return None if _machine(data) == _machine(other) else "another machine"


def _machine(data: Mapping[str, Any]) -> tuple[Any, ...]:
    environment, reference = data["environment"], data["reference"]
    gpu = environment["gpu"]
    return (
        environment["cpu"],
        environment["cpu_count"],
        gpu["name"] if gpu else None,
        reference["device"],
        reference["threads"],
        reference["tf32"],
    )


def published_beside(target: Path, data: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return report.json's ``published``: bundles of the model's other precisions by ``target``.

    One entry for each artifact that was executed. A directory that cannot be read is left out.
    """
    entries = []
    for bundle in sorted(target.parent.glob("*/report.json")):
        if bundle.parent.name in (target.name, f"{target.name}.rejected"):
            continue
        try:
            other = read_report(bundle.parent)
            if other["status"] == "passed":
                entries += _entries(other, data)
        except (BundleError, KeyError, TypeError):
            continue  # a neighbour of another version is no reason to fail this run
    return entries


def engines_beside(target: Path, data: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return report.json's ``engines_beside``: what the plans of neighbouring precisions run.

    Those of the same weights; nothing of it was measured, so the machine does not matter.
    """
    found = []
    for path in sorted(target.parent.glob("*/report.json")):
        if path.parent.name in (target.name, f"{target.name}.rejected"):
            continue
        try:
            other = read_report(path.parent)
            same = other["source"]["weights_sha256"] == data["source"]["weights_sha256"]
        except (BundleError, KeyError, TypeError):
            continue
        if same and other["status"] != "failed":
            found += engines_of(other)
    return found


def engines_of(data: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return what the plans of a report run, each with its precision and its runtime."""
    return [
        {
            "precision": data["precision"],
            "artifact": artifact["name"],
            "engine": artifact["engine"],
        }
        for artifact in data["artifacts"]
        if "engine" in artifact
    ]


def _entries(other: Mapping[str, Any], data: Mapping[str, Any]) -> list[dict[str, Any]]:
    reason = difference(data, other)
    task = main_task(data)
    ours = {artifact["device"] for artifact in data["artifacts"] if artifact["executed"]}

    def why_not(artifact: Mapping[str, Any]) -> str | None:
        device = artifact["device"]
        return reason or (
            None if device in ours else f"ran on {device}, timed against PyTorch there"
        )

    return [
        {
            "precision": other["precision"],
            "artifact": artifact["name"],
            "device": artifact["device"],
            "cosine_mean": artifact["agreement"]["cosine"]["mean"],
            "cosine_p1": artifact["agreement"]["cosine"]["p1"],
            "speedup": artifact["throughput"]["speedup"]["median"],
            "ci95": artifact["throughput"]["speedup"]["ci95"],
            "task": _task(artifact["tasks"], task),
            "comparable": why_not(artifact) is None,
            "reason": why_not(artifact),
        }
        for artifact in other["artifacts"]
        if artifact["executed"]
    ]


def _task(
    tasks: Mapping[str, Mapping[str, Any]], wanted: tuple[str, str] | None
) -> dict[str, Any] | None:
    """Return this report's main task in the other one, else the other one's first."""
    names = ([wanted[0]] if wanted and wanted[0] in tasks else []) + list(tasks)
    if not names:
        return None
    task = tasks[names[0]]
    return {"name": names[0]} | {key: task[key] for key in ("metric", "artifact", "delta")}
