"""Put together what the trend page shows: the matrix, then each cell."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from pipeline.history.judge.series import baseline
from pipeline.history.judge.slower import WINDOW, allowance
from pipeline.history.keep.records import Entry, Figure, Finding, label_night

NIGHTS = 90
"""The page shows so many of the last nights."""

Direction = Literal["faster", "slower", "same"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """Tonight's speed-up against the median of the nights before, as a share."""

    share: float
    direction: Direction


@dataclass(frozen=True, slots=True, kw_only=True)
class CellView:
    """One cell: its nights, oldest first, and what the last of all nights says of it.

    ``tonight`` is None where that night has no record of the cell. ``chief`` is the artifact that
    was fastest when the cell was last measured.
    """

    anchor: str
    entries: Sequence[Entry]
    tonight: Entry | None
    chief: str | None
    change: Change | None

    @property
    def last(self) -> Entry:
        """The cell's own last night."""
        return self.entries[-1]

    @property
    def state(self) -> str:
        """The state on the last of all nights; ``absent`` where that night had no such cell."""
        return "absent" if self.tonight is None else self.tonight.state

    @property
    def target(self) -> str:
        """The GPU type of the cell's engine; empty for a cell that publishes its own bundle."""
        return self.last.target or ""

    @property
    def findings(self) -> Sequence[Finding]:
        """What the last of all nights found."""
        return () if self.tonight is None else self.tonight.findings

    @property
    def failed(self) -> bool:
        """Whether the last of all nights failed in this cell."""
        ended = self.state not in ("published", "absent", "skipped")
        return ended or any(f.fails for f in self.findings)

    @property
    def artifacts(self) -> list[str]:
        """The artifacts that were executed on any night, the chief first."""
        names = {a.name: None for e in self.entries for a in e.artifacts if a.reason is None}
        return sorted(names, key=lambda name: name != self.chief)

    def figure(self, metric: str) -> Figure | None:
        """Return what the last of all nights measured of the chief artifact."""
        if self.tonight is None or self.chief is None:
            return None
        return self.tonight.figure(self.chief, metric)


@dataclass(frozen=True, slots=True, kw_only=True)
class Trend:
    """The nights that are shown, and the cells by device, model and precision."""

    nights: Sequence[str]
    cells: Sequence[CellView]

    @property
    def tonight(self) -> list[CellView]:
        """The cells that the last night had."""
        return [cell for cell in self.cells if cell.tonight is not None]

    def label(self, night: str) -> str:
        """Return what a night is called: its day, and the time where that day has two."""
        return label_night(night, self.nights)

    @property
    def findings(self) -> list[Finding]:
        """The last night's findings, those that fail it first."""
        found = [finding for cell in self.cells for finding in cell.findings]
        return sorted(found, key=lambda finding: not finding.fails)

    @property
    def devices(self) -> list[str]:
        """The devices, in the cells' order."""
        return list(dict.fromkeys(cell.last.device for cell in self.cells))

    def heading(self, device: str) -> str:
        """Return a device with the GPU types that its cells build for."""
        targets = {cell.target for cell in self.cells if cell.last.device == device} - {""}
        return f"{device} ({', '.join(sorted(targets))})" if targets else device

    def precisions(self, device: str) -> list[str]:
        """Return the precisions on a device, the widest first."""
        names = {cell.last.precision for cell in self.cells if cell.last.device == device}
        return sorted(names, key=_precision_order)

    def matrix(self, device: str) -> dict[str, list[list[CellView]]]:
        """Return each model's cells for each of ``precisions``; mostly one, or none."""
        cells = [cell for cell in self.cells if cell.last.device == device]
        return {
            model: [
                [c for c in cells if (c.last.model, c.last.precision) == (model, precision)]
                for precision in self.precisions(device)
            ]
            for model in dict.fromkeys(cell.last.model for cell in cells)
        }

    def count(self, state: str) -> int:
        """Return how many cells are in a state on the last night."""
        return sum(cell.state == state for cell in self.cells)


def make_trend(entries: Sequence[Entry]) -> Trend:
    """Put entries together, ordered by night; the last ``NIGHTS`` nights are shown."""
    nights = sorted({entry.night for entry in entries})[-NIGHTS:]
    by_cell: dict[str, list[Entry]] = {}
    for entry in entries:
        by_cell.setdefault(entry.cell, []).append(entry)
    shown = sorted(
        (own for own in by_cell.values() if own[-1].night >= nights[0]),
        key=lambda own: (
            own[-1].device,
            own[-1].model,
            _precision_order(own[-1].precision),
            own[-1].cell,
        ),
    )
    cells = [_view(own, nights, f"cell-{number}") for number, own in enumerate(shown)]
    return Trend(nights=nights, cells=cells)


def _precision_order(name: str) -> tuple[int, str]:
    known = ("fp32", "fp16", "bf16", "fp8", "int8")
    family = next((i for i, kind in enumerate(known) if name.startswith(kind)), len(known))
    return family, name


def _view(entries: Sequence[Entry], nights: Sequence[str], anchor: str) -> CellView:
    tonight = entries[-1] if entries[-1].night == nights[-1] else None
    speeds = next((found for e in reversed(entries) if (found := _speeds(e))), {})
    chief = max(speeds, key=lambda name: speeds[name], default=_executed(entries[-1]))
    return CellView(
        anchor=anchor,
        entries=[entry for entry in entries if entry.night >= nights[0]],
        tonight=tonight,
        chief=chief,
        change=_change(entries[:-1], tonight, chief)
        if tonight and chief and chief in speeds
        else None,
    )


def _executed(entry: Entry) -> str | None:
    """Return the first artifact that ran: engines built from a bundle have no reference beside."""
    return next((a.name for a in entry.artifacts if a.reason is None), None)


def _speeds(entry: Entry) -> Mapping[str, float]:
    figures = {a.name: a.figures.get("speedup") for a in entry.artifacts if a.reason is None}
    return {name: figure.value for name, figure in figures.items() if figure is not None}


def _change(past: Sequence[Entry], tonight: Entry, chief: str) -> Change | None:
    figure = tonight.figure(chief, "speedup")
    before = baseline(past, tonight, chief, "speedup")
    width = allowance(before)
    if figure is None or width is None:
        return None
    share = figure.value / float(np.median(before.values[-WINDOW:])) - 1
    direction: Direction = "same" if abs(share) <= width else "faster" if share > 0 else "slower"
    return Change(share=share, direction=direction)
