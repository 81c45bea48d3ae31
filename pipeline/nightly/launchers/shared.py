"""Wait for cells that a scheduler runs, by their status files on a shared directory."""

import time
from collections.abc import Callable, Sequence

from pipeline.history.keep.status import State, Status
from pipeline.nightly.cells.matrix import Cell
from pipeline.nightly.night import Night
from pipeline.nightly.stop import Stop

_MARGIN_S = 120
"""What a shared directory and a scheduler may lag behind."""


def wait_for_cells(
    night: Night,
    cells: Sequence[Cell],
    stopping: Stop,
    refresh: Callable[[], None],
    why_ended: Callable[[Cell], str | None],
    *,
    poll_s: float,
    settle_s: float = 30,
) -> dict[str, str]:
    """Return why a cell has no final status, by its name, once nothing more can come.

    ``why_ended`` says how the scheduler ended a cell, None while it may still run. A cell that
    started and is long past its time is given up, whatever the scheduler says.
    """
    waiting = {cell.name: cell for cell in cells}
    reasons: dict[str, str] = {}
    ended: dict[str, float] = {}
    started: dict[str, float] = {}
    while waiting and stopping.signal is None:
        now = time.monotonic()
        for name, cell in list(waiting.items()):
            status = Status.read(night.of(cell))
            if status is not None and status.state is State.running:
                started.setdefault(name, now)
            late = cell.timeout_s + 4 * cell.grace_s + _MARGIN_S
            if status is not None and status.state.is_told:
                del waiting[name]
            elif name in started and now - started[name] > late:
                reasons[name] = f"it started, and has no status after {late:g} s"
                del waiting[name]
            elif (reason := why_ended(cell)) and now - ended.setdefault(name, now) >= settle_s:
                reasons[name] = reason
                del waiting[name]
        refresh()
        time.sleep(poll_s if waiting else 0)
    if stopping.signal is not None:
        words = f"the night was stopped by {stopping.signal.name} before it ended"
        reasons |= dict.fromkeys(waiting, words)
    return reasons
