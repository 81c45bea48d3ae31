"""Run cells as processes of this machine, one for each of a device's slots at a time."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from pipeline.history.keep.status import Status
from pipeline.nightly.cells import child
from pipeline.nightly.cells.matrix import Cell
from pipeline.nightly.config import NightlyConfig
from pipeline.nightly.night import Night
from pipeline.nightly.stop import Stop

_POLL_S = 0.1
_MARGIN_S = 60


@dataclass(frozen=True, slots=True, kw_only=True)
class _Running:
    cell: Cell
    slot: str
    process: subprocess.Popen[bytes]
    deadline: float


def run_local(
    night: Night,
    cells: Sequence[Cell],
    config: NightlyConfig,
    stopping: Stop,
    refresh: Callable[[], None],
) -> dict[str, str]:
    """Run the cells; return why a cell has no final status, by its name."""
    waiting = list(cells)
    free = {device: list(config.hardware[device].slots) for device in config.devices}
    running: list[_Running] = []
    reasons: dict[str, str] = {}
    while waiting or running:
        if stopping.signal is not None:
            words = f"not run: the night was stopped by {stopping.signal.name}"
            reasons |= {cell.name: words for cell in waiting}
            waiting = []
            for job in running:
                job.process.terminate()  # it ends its command's group, then itself
        unfinished = {cell.name for cell in (*waiting, *(job.cell for job in running))}
        for cell in list(waiting):
            if free[cell.device] and cell.after not in unfinished:
                slot = free[cell.device].pop(0)
                waiting.remove(cell)
                running.append(_start(night, cell, slot))
        for job in list(running):
            if job.process.poll() is None and time.monotonic() < job.deadline:
                continue
            running.remove(job)
            free[job.cell.device].insert(0, job.slot)
            if reason := _finish(night, job):
                reasons[job.cell.name] = reason
        refresh()
        time.sleep(_POLL_S)
    return reasons


def _start(night: Night, cell: Cell, slot: str) -> _Running:
    return _Running(
        cell=cell,
        slot=slot,
        process=child.start(
            [sys.executable, "-m", "pipeline.nightly.cells.cell", str(night.of(cell))],
            output=subprocess.PIPE,
            environment={**os.environ, "CUDA_VISIBLE_DEVICES": slot},
            on_death=signal.SIGTERM,
        ),
        deadline=time.monotonic() + cell.timeout_s + 4 * cell.grace_s + _MARGIN_S,
    )


def _finish(night: Night, job: _Running) -> str | None:
    """Collect a cell's process; return why it left no final status, or None if it did."""
    if job.process.poll() is None:  # it should have ended its command long ago
        child.end(job.process, grace_s=job.cell.grace_s)
    output, _ = job.process.communicate()
    status = Status.read(night.of(job.cell))
    if status is not None and status.state.is_told:
        return None
    if status is not None and status.message:
        return status.message
    code = job.process.returncode
    said = output.decode("utf-8", errors="replace").strip().rpartition("\n")[2]
    how = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
    return said.removeprefix("error: ") or f"its process ended by {how} without a status"
