"""Run one cell: ``python -m pipeline.nightly.cells.cell DIRECTORY``, under every scheduler alike.

``DIRECTORY`` holds ``cell.json``, which says what to run. It gets ``log.txt`` (all that the command
prints), ``outcome.json`` (what the command tells of itself), ``status.json``, ``previous/`` (the
bundle before) and the command's reports. A cell with a final status is not run again. Exit codes: 0
published, 2 a gate failed, 1 anything else.
"""

import argparse
import os
import shutil
import signal
import socket
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from pipeline.engines.gpu import name_gpu
from pipeline.errors import NightlyError, PipelineError
from pipeline.files import read_json, write_json
from pipeline.flow.outcome_file import VARIABLE, RunOutcome, read_outcome
from pipeline.history.keep.status import State, Status
from pipeline.nightly.cells import child
from pipeline.nightly.cells.built import first_status, why_skipped, with_engines
from pipeline.nightly.cells.child import Ending
from pipeline.nightly.cells.matrix import Cell, cell_from
from pipeline.nightly.cells.previous import keep_previous
from pipeline.nightly.stop import Stop
from pipeline.printable import print_error

CELL_FILE, LOG_FILE, OUTCOME_FILE = "cell.json", "log.txt", "outcome.json"
_LONGEST = 500
"""Characters of a message that the status keeps."""
_REPORTS = ("report.json", "report.html", "report.md", "junit.xml")
_EXIT_CODES = {State.published: 0, State.rejected: 2}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the cell that the command line names and return the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m pipeline.nightly.cells.cell", description="Run one cell of a night."
    )
    parser.add_argument("directory", type=Path, help="the cell's directory, or with --list a file")
    parser.add_argument(
        "--list",
        action="store_true",
        help="the file names directories: take line $JOB_COMPLETION_INDEX, from 0",
    )
    try:
        options = parser.parse_args(arguments)
    except SystemExit as stop:  # 2 would say that a gate failed
        return 1 if stop.code else 0
    try:
        with Stop() as stopping:
            directory = _listed(options.directory) if options.list else options.directory
            status = run_cell(directory, stopping)
    except PipelineError as error:
        print_error(error)
        return 1
    return _EXIT_CODES.get(status.state, 1)


def write_cell(cell: Cell, directory: Path, cwd: Path) -> None:
    """Write what ``run_cell`` reads; ``cwd`` is where the command runs. Raises OSError."""
    directory.mkdir(parents=True, exist_ok=True)
    data = {name: getattr(cell, name) for name in Cell.__dataclass_fields__}
    write_json(directory / CELL_FILE, {"schema": 1, "cwd": str(cwd), "cell": data})


def run_cell(directory: Path, stopping: Stop) -> Status:
    """Run the cell in ``directory`` to its final status, or until it is stopped.

    Raises:
        NightlyError: no cell there, another process runs it, or the directory cannot be written.
    """
    cell, cwd = _read_cell(directory)
    try:
        # As long as the process of a night that was just killed may take to end its command.
        with FileLock(directory / ".lock", timeout=2 * cell.grace_s + 10):
            status = Status.read(directory)
            if status is not None and status.state.is_final:
                return status
            if (reason := why_skipped(cell, directory)) is not None:
                return _skip(cell, directory, reason)
            return _run(cell, cwd, directory, stopping)
    except Timeout as error:
        raise NightlyError(f"{directory}: another process runs this cell; end it first") from error
    except OSError as error:
        where = error.filename or directory
        raise NightlyError(
            f"cannot read or write {where}: {error.strerror or error}; make room there, or set "
            "output to a directory that is writable"
        ) from error


def _run(cell: Cell, cwd: Path, directory: Path, stopping: Stop) -> Status:
    outcome = directory.absolute() / OUTCOME_FILE
    outcome.unlink(missing_ok=True)
    environment = _environment() | {VARIABLE: str(outcome)}
    begun = replace(
        first_status(cell, State.running),
        command=_shown(cell, environment),
        started=_now(),
        host=socket.gethostname(),
        gpu=_gpu(environment),
    )
    begun.write(directory)
    target = cwd / cell.target
    previous = _previous(cell, target, directory)
    clock = time.monotonic()
    with (directory / LOG_FILE).open("wb") as output:
        process = child.start(
            [sys.executable, "-m", cell.module, *cell.arguments],
            output=output,
            environment=environment,
            cwd=cwd,
        )
        ending = child.wait(
            process,
            timeout_s=cell.timeout_s,
            grace_s=cell.grace_s,
            is_stopped=lambda: stopping.signal is not None,
        )
    told = read_outcome(outcome)
    ended = final_status(begun, ending, told, cell.timeout_s)
    if cell.builds:
        ended = with_engines(ended, target, told, directory)
    else:
        ended = _with_bundle(ended, target, directory)
    ended = replace(
        ended,
        seconds=round(time.monotonic() - clock, 1),
        ended=_now(),
        previous=None if previous is None else str(previous),
    )
    ended.write(directory)
    return ended


def _skip(cell: Cell, directory: Path, reason: str) -> Status:
    skipped = replace(first_status(cell, State.skipped), message=reason[:_LONGEST])
    skipped.write(directory)
    return skipped


def _previous(cell: Cell, target: Path, directory: Path) -> Path | None:
    """Keep the bundle of before; that of a cell that builds was kept by the one that published."""
    if cell.after is None:
        return keep_previous(target, directory / "previous")
    kept = directory.parent / cell.after / "previous"
    return kept if kept.is_dir() else None


def _with_bundle(status: Status, target: Path, directory: Path) -> Status:
    bundle = str(target) if status.state is State.published else None
    return replace(status, bundle=bundle, reports=_keep_reports(status.state, target, directory))


def final_status(begun: Status, ending: Ending, told: RunOutcome, timeout_s: float) -> Status:
    """Return what a command's ending and what it told come to; the stage only where it failed."""
    code = ending.code if ending.code >= 0 else None
    status = replace(begun, exit_code=code, stage=told.stage)
    # A shell, a container or a scheduler in between says 128 + signal.
    number = -ending.code if ending.code < 0 else ending.code - 128
    name = signal.Signals(number).name if number in set(signal.Signals) else None
    if ending.stopped:
        return replace(status, state=State.stopped, message="stopped before it ended")
    if ending.timed_out:
        words = f"no end after {timeout_s:g} s; set timeout_s to give it more"
        return replace(status, state=State.timeout, signal=name, message=words)
    if name is not None:
        words = "as the kernel does when memory runs out" if name == "SIGKILL" else "see its log"
        words = f"ended by {name}, {words}"
        return replace(status, state=State.crashed, signal=name, message=words)
    if ending.code == 0 and told.bundle:
        return replace(status, state=State.published, stage=None)
    if ending.code == 2:
        words = f"gate failed: {'; '.join(told.gates)}"
        return replace(status, state=State.rejected, message=words[:_LONGEST])
    message = told.message or f"exit code {ending.code} and nothing was published"
    return replace(status, state=State.error, message=message[:_LONGEST])


def _gpu(environment: Mapping[str, str]) -> str | None:
    """Return the name of the first GPU that the command sees, as nvidia-smi says it."""
    visible = environment.get("CUDA_VISIBLE_DEVICES", "0").partition(",")[0]
    return name_gpu(visible) if visible else None


def _keep_reports(state: State, target: Path, directory: Path) -> dict[str, str]:
    """Copy the run's reports: the next night's take the place of those beside the bundle."""
    rejected = target.with_name(f"{target.name}.rejected")
    source = {State.published: target, State.rejected: rejected}.get(state)
    kept = {}
    for name in _REPORTS if source else ():
        assert source is not None
        if (source / name).is_file():
            kept[name] = str(shutil.copyfile(source / name, directory / name))
    return kept


def _environment() -> dict[str, str]:
    """Return the command's environment: one whose log can be read, also after a crash."""
    changed = {
        "PIPELINE_LOG_LEVEL": "INFO",
        "PYTHONFAULTHANDLER": "1",
        "PYTHONUNBUFFERED": "1",
        "TERM": "dumb",
    }
    unwanted = {"HYDRA_FULL_ERROR", "FORCE_COLOR", "TTY_COMPATIBLE"}
    kept = {name: value for name, value in os.environ.items() if name not in unwanted}
    return kept | changed


def _shown(cell: Cell, environment: Mapping[str, str]) -> str:
    devices = environment.get("CUDA_VISIBLE_DEVICES")
    return cell.command if devices is None else f"CUDA_VISIBLE_DEVICES={devices} {cell.command}"


def _read_cell(directory: Path) -> tuple[Cell, Path]:
    data: dict[str, Any] = read_json(directory / CELL_FILE) or {}
    try:
        return cell_from(data["cell"]), Path(data["cwd"])
    except (TypeError, KeyError) as error:
        raise NightlyError(
            f"{directory} is not a cell of a night: no readable {CELL_FILE}; "
            "start a night with python -m pipeline.nightly"
        ) from error


def _listed(path: Path) -> Path:
    index = os.environ.get("JOB_COMPLETION_INDEX", "")
    try:
        return Path(path.read_text("utf-8").splitlines()[int(index)])
    except (OSError, ValueError, IndexError) as error:
        raise NightlyError(
            f"{path}: no cell for JOB_COMPLETION_INDEX={index!r}; it is what "
            "launcher=kubernetes wrote, and an Indexed Job sets the index"
        ) from error


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


if __name__ == "__main__":
    sys.exit(main())
