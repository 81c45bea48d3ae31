"""Show a line for each cell while they run: a table on a terminal, plain lines elsewhere."""

import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from rich.live import Live
from rich.table import Table

from pipeline.flow.outcome_file import read_outcome
from pipeline.history.keep.status import State, Status
from pipeline.nightly.cells.cell import OUTCOME_FILE
from pipeline.nightly.cells.matrix import Cell
from pipeline.nightly.night import Night
from pipeline.progress import console

log = logging.getLogger(__name__)

_EVERY_S = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class _Line:
    cell: str
    state: str
    stage: str
    seconds: float | None


class Screen:
    """Shows what the status files say, at most once a second."""

    def __init__(self, night: Night, live: Live | None) -> None:
        self._night = night
        self._live = live
        self._shown: dict[str, tuple[str, str]] = {}
        self._next = 0.0

    def refresh(self) -> None:
        """Show what changed; returns at once where it was called less than a second ago."""
        if time.monotonic() >= self._next:
            self.show()
            self._next = time.monotonic() + _EVERY_S

    def show(self) -> None:
        """Show what changed since the last time."""
        lines = [_line(self._night.of(cell), cell) for cell in self._night.cells]
        if self._live is not None:
            self._live.update(_table(lines), refresh=True)
            return
        for line in lines:
            seen = (line.state, line.stage)
            if line.state != "waiting" and self._shown.get(line.cell) != seen:
                self._shown[line.cell] = seen
                log.info("%s: %s", line.cell, _words(line))


@contextmanager
def screen(night: Night) -> Iterator[Screen]:
    """Give the screen of a night; shows the last state at the end."""
    if console.is_terminal:
        with Live(console=console, auto_refresh=False) as live:
            shown = Screen(night, live)
            yield shown
            shown.show()
    else:
        shown = Screen(night, None)
        yield shown
        shown.show()


def _line(directory: Path, cell: Cell) -> _Line:
    status = Status.read(directory)
    if status is None:
        return _Line(cell=cell.name, state="waiting", stage="", seconds=None)
    if status.state is not State.running:
        stage = status.stage or ""
        return _Line(cell=cell.name, state=status.state, stage=stage, seconds=status.seconds)
    stage = read_outcome(directory / OUTCOME_FILE).stage or ""
    began = datetime.fromisoformat(status.started) if status.started else datetime.now(UTC)
    seconds = max(0.0, (datetime.now(UTC) - began).total_seconds())  # another host's clock
    return _Line(cell=cell.name, state=State.running, stage=stage, seconds=seconds)


def _words(line: _Line) -> str:
    stage = f" in {line.stage}" if line.stage else ""
    if line.state == State.running:
        return line.stage or "starts"
    return f"{line.state}{stage} after {line.seconds or 0:.1f} s"


def _table(lines: Sequence[_Line]) -> Table:
    table = Table(box=None)
    for heading in ("cell", "state", "stage"):
        table.add_column(heading)
    table.add_column("seconds", justify="right")
    for line in lines:
        seconds = "" if line.seconds is None else f"{line.seconds:.0f}"
        table.add_row(line.cell, line.state, line.stage, seconds)
    return table
