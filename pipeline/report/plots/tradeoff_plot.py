"""Draw the trade-off: quality over speed, with intervals. Up and to the right is better."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, MaxNLocator, NullLocator

from pipeline.report import numbers
from pipeline.report.plots.labels import Box, around, freest, place
from pipeline.report.plots.svg import (
    BAD,
    FONT,
    INK,
    LETTER,
    NARROWEST,
    OTHER,
    SOFT,
    THIS,
    drawing,
    mark,
    to_svg,
)
from pipeline.report.plots.tradeoff import Kind, Point

_COLOURS = {"this": THIS, "published": OTHER, "reference": INK, "rejected": BAD}
_MARKERS = {"this": "o", "published": "s", "reference": "D", "rejected": "X"}
_CHIEF = ("this", "rejected")
_BOLD = 1.14
"""How much wider bold letters are."""
_NEAR_SPEEDS = (0.1, 0.2, 0.3, 0.5, 0.7, 1, 1.5, 2, 3, 4, 6, 8, 12)
_SPEEDS = tuple(2.0**power for power in range(-10, 14))


@dataclass(frozen=True, slots=True)
class _Mark:
    """A point as drawn; an interval that was not measured has no width."""

    label: str
    kind: Kind
    x: float
    x_ends: tuple[float, float]
    y: float
    y_ends: tuple[float, float]


def draw_tradeoff(
    points: Sequence[Point], quality: Literal["cosine", "task"], axis: str, name: str
) -> str:
    """Return the plot as SVG; what has a speed and no quality is a line.

    ``axis`` names the quality; ``name`` is unique on the page.
    """
    marks = [at for point in points if (at := _mark(point, quality)) is not None]
    said = "; ".join(f"{p.label} {numbers.ratio(p.speedup)}" for p in points)
    with drawing(262, bottom=38, top=24) as axes:
        _speed_axis(axes, points)
        for at in marks:
            colour = _COLOURS[at.kind]
            axes.plot(at.x_ends, (at.y, at.y), color=colour, linewidth=1.6)
            axes.plot((at.x, at.x), at.y_ends, color=colour, linewidth=1.6)
            mark(axes, at.x, at.y, _MARKERS[at.kind], colour)
        _quality_axis(axes, axis, *((1, NARROWEST) if quality == "cosine" else (100, 0.5)))
        taken = [box for at in marks for box in _covered(axes, at)]
        for point in points:
            if point.kind == "baseline":
                taken += _speed_line(axes, point, taken)
        _name_marks(axes, marks, taken)
        return to_svg(axes, name, f"Trade-off: {axis} over speed", f"Speed-up: {said}.")


def _mark(point: Point, quality: str) -> _Mark | None:
    value, ends = (
        (point.cosine, point.cosine_ends) if quality == "cosine" else (point.task, point.task_ends)
    )
    if value is None:
        return None
    speed = point.speedup
    return _Mark(
        point.label,
        point.kind,
        speed,
        point.speedup_ends or (speed, speed),
        value,
        ends or (value, value),
    )


def _speed_axis(axes: Axes, points: Sequence[Point]) -> None:
    ends = [end for p in points for end in (p.speedup, *(p.speedup_ends or ()))]
    low, high = min(0.65, min(ends) / 1.18), max(1.6, max(ends) * 1.18)
    axes.set_xscale("log")
    axes.set_xlim(low, high)
    speeds = _NEAR_SPEEDS if high < 7 * low else _SPEEDS[:: 1 if high < 60 * low else 2]
    ticks = [speed for speed in speeds if low <= speed <= high]
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xticks(ticks, [f"{tick:g}×" for tick in ticks])
    axes.set_xlabel("speed, PyTorch fp32 = 1×")
    axes.axvline(1, color=SOFT, linewidth=1)


def _quality_axis(axes: Axes, label: str, highest: float, least_room: float) -> None:
    """Scale the axis; with ``least_room`` around them, points that hardly differ look like it."""
    low, high = axes.dataLim.intervaly
    room = max(0.15 * (high - low), least_room)
    ticks = MaxNLocator(5, steps=[1, 2, 5, 10]).tick_values(low - room, min(high + room, highest))
    axes.yaxis.set_major_locator(FixedLocator([t for t in ticks if t <= highest + 1e-9]))
    axes.set_ylim(low - room, high + room)
    axes.text(0, 1.02, label, transform=axes.transAxes, color=SOFT, va="bottom")


def _covered(axes: Axes, at: _Mark) -> list[Box]:
    """Return what a point and its intervals cover, in display units."""
    x, y = axes.transData.transform((at.x, at.y))
    left, bottom = axes.transData.transform((at.x_ends[0], at.y_ends[0]))
    right, top = axes.transData.transform((at.x_ends[1], at.y_ends[1]))
    return [around((x, y)), (left, y - 2, right, y + 2), (x - 2, bottom, x + 2, top)]


def _speed_line(axes: Axes, point: Point, taken: Sequence[Box]) -> list[Box]:
    """Draw a line, its name along it where there is room; return what both cover."""
    axes.axvline(point.speedup, color=SOFT, linewidth=1, linestyle=(0, (3, 3)))
    size = FONT - 2
    x = float(axes.transData.transform((point.speedup, axes.get_ylim()[0]))[0])
    frame = axes.bbox.extents
    length = LETTER * len(point.label)
    low = (x - size - 5, frame[1] + 4, x, frame[1] + 4 + length)
    high = (x - size - 5, frame[3] - 4 - length, x, frame[3] - 4)
    middle = (x - size - 5, (low[1] + high[1]) / 2, x, (low[3] + high[3]) / 2)
    box = freest((low, high, middle), taken, frame)
    axes.annotate(
        point.label,
        (box[2] - 3, (box[1] + box[3]) / 2),
        xycoords="figure pixels",
        rotation=90,
        ha="right",
        va="center",
        color=SOFT,
        fontsize=size,
    )
    return [box, (x - 1, frame[1], x + 1, frame[3])]


def _name_marks(axes: Axes, marks: Sequence[_Mark], taken: Sequence[Box]) -> None:
    anchors = [axes.transData.transform((at.x, at.y)) for at in marks]
    sizes = [(_BOLD ** (at.kind in _CHIEF) * LETTER * len(at.label), FONT + 1) for at in marks]
    boxes = place([(float(x), float(y)) for x, y in anchors], sizes, taken, axes.bbox.extents)
    for at, box in zip(marks, boxes, strict=True):
        axes.annotate(
            at.label,
            (at.x, at.y),
            ((box[0] + box[2]) / 2, box[1] + 2),
            textcoords="figure pixels",
            ha="center",
            arrowprops={
                "arrowstyle": "-",
                "color": _COLOURS[at.kind],
                "linewidth": 0.6,
                "shrinkA": 0,
                "shrinkB": 5,
            },
            color=_COLOURS[at.kind],
            weight="bold" if at.kind in _CHIEF else "normal",
        )
