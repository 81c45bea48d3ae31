"""What a cell that builds an engine from another cell's bundle waits for, and tells."""

import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from pipeline.bundle.manifest import ENGINES, MANIFEST
from pipeline.files import read_json, write_json
from pipeline.flow.outcome_file import RunOutcome
from pipeline.history.keep.status import STATUS_FILE, State, Status
from pipeline.nightly.cells.matrix import Cell

_REPORT = "report.json"
_POLL_S = 0.2


def first_status(cell: Cell, state: State) -> Status:
    """Return the status of a cell of which nothing else is known."""
    return Status(
        cell=cell.name,
        model=cell.model,
        precision=cell.precision,
        device=cell.device,
        command=cell.command,
        state=state,
        target=cell.gpu_target,
    )


def why_skipped(cell: Cell, directory: Path) -> str | None:
    """Return why a cell has no bundle to build from tonight, None where it may run.

    The status of the cell before it may show on a shared directory a little later than its end.
    """
    if cell.after is None:
        return None
    deadline = time.monotonic() + cell.grace_s
    before = Status.read(directory.parent / cell.after)
    while (before is None or not before.state.is_final) and time.monotonic() < deadline:
        time.sleep(_POLL_S)
        before = Status.read(directory.parent / cell.after)
    if before is None or not before.state.is_final:
        return f"{cell.after}, which publishes its bundle, has no final status"
    if before.state is State.published:
        return None
    where = f" in {before.stage}" if before.stage else ""
    return f"{cell.after}, which publishes its bundle: {before.state}{where}: {before.message}"


def forget_skipped(directory: Path) -> None:
    """Remove the status of a cell that was skipped, before it is tried again. Raises OSError."""
    status = Status.read(directory)
    if status is not None and status.state is State.skipped:
        (directory / STATUS_FILE).unlink()


def with_engines(status: Status, bundle: Path, told: RunOutcome, directory: Path) -> Status:
    """Return the status of a cell that built: its engines, their target, a report of them.

    The report is in the words of a run's ``report.json``, from what each engine's manifest says.
    """
    if status.state not in (State.published, State.rejected):
        return status
    manifests: dict[str, Mapping[str, Any]] = {
        name: read_json(bundle / ENGINES / name / MANIFEST) or {} for name in told.engines
    }
    artifacts = [_artifact(name, manifest) for name, manifest in manifests.items()]
    environments = [manifest.get("environment") for manifest in manifests.values()]
    report: dict[str, Any] = {
        "schema": 1,
        "model": status.model,
        "precision": status.precision,
        "status": "passed" if status.state is State.published else "failed",
        "failed_gates": list(told.gates),
        "artifacts": artifacts,
        "stages": [],
        "environment": next(filter(None, environments), {}),
    }
    write_json(directory / _REPORT, report)
    built = {str(manifest["target"]) for manifest in manifests.values() if "target" in manifest}
    reasons = [f"not checked: {a['reason']}" for a in artifacts if not a["executed"]]
    return replace(
        status,
        bundle=next((str(bundle / ENGINES / name) for name in manifests), None),
        target=", ".join(sorted(built)) or status.target,
        message=status.message or "; ".join(reasons) or None,
        reports={_REPORT: str(directory / _REPORT)},
    )


def _artifact(name: str, manifest: Mapping[str, Any]) -> dict[str, Any]:
    measured = dict(manifest.get("measured") or {"executed": False, "reason": "no manifest"})
    speed = measured.pop("sentences_per_second", None)
    files = manifest.get("files") or {}
    return {
        "name": str(manifest.get("runtime") or name),
        "file": f"{ENGINES}/{name}/model.plan",
        "bytes": (files.get("model.plan") or {}).get("bytes"),
        "throughput": {} if speed is None else {"sentences_per_second": speed},
        **measured,
    }
