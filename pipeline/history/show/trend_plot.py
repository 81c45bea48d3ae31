"""Draw one metric's lines over the nights, with their steps, as inline SVG."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, MaxNLocator

from pipeline.history.judge.steps import Step
from pipeline.report.plots.svg import BAD, INK, OTHER, SOFT, THIS, drawing, mark, to_svg

STYLES = ("solid", "dashed", "dotted", "dashdot")
_COLOURS = (THIS, OTHER, INK, SOFT)
_MARKED = 12
"""Lines of at most so many points have a mark at each: a point with no neighbour has no line."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PlottedLine:
    """An artifact's values by night's index, where they step, and the nights found slower."""

    name: str
    points: Sequence[tuple[int, float]]
    steps: Sequence[Step]
    slower: Sequence[int]


def draw_trend(
    lines: Sequence[PlottedLine],
    dates: Sequence[str],
    *,
    title: str,
    name: str,
    least: float,
    words: Callable[[float], str],
) -> str:
    """Draw lines over all nights.

    ``dates`` names every night, with the time where its day has two; ``least`` is the narrowest
    range. Steps are dashed uprights with the change written above, slower nights crosses.
    """
    timed = any(len(date) > 10 for date in dates)
    with drawing(200, left=62, right=22, top=24, bottom=40 if timed else 28) as axes:
        for line, style, colour in zip(lines, STYLES, _COLOURS, strict=False):
            _draw_line(axes, line, style, colour, len(dates))
        values = [value for line in lines for _, value in line.points]
        middle, room = (max(values) + min(values)) / 2, max(max(values) - min(values), least)
        axes.set_ylim(middle - 0.58 * room, middle + 0.58 * room)
        _draw_steps(axes, lines, room_for_words=len(dates) / 6)
        axes.set_xlim(-0.5, max(len(dates) - 0.5, 0.5))
        shown = sorted({round(x) for x in np.linspace(0, len(dates) - 1, 4)})
        axes.set_xticks(shown, [dates[i][5:].replace(" ", "\n") for i in shown])
        axes.yaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 5, 10]))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: words(value)))
        axes.grid(visible=False, axis="x")
        said = ". ".join(_say(line, dates, words) for line in lines)
        return to_svg(axes, name, title, f"{said}.")


def _draw_line(axes: Axes, line: PlottedLine, style: str, colour: str, nights: int) -> None:
    values = np.full(nights, np.nan)
    for index, value in line.points:
        values[index] = value
    axes.plot(range(nights), values, color=colour, linewidth=1.5, linestyle=style)
    if len(line.points) <= _MARKED:
        for index, value in line.points:
            mark(axes, index, value, "o", colour, size=4)
    at = dict(line.points)
    for index in line.slower:
        if index in at:
            mark(axes, index, at[index], "X", BAD, size=9)


def _draw_steps(axes: Axes, lines: Sequence[PlottedLine], *, room_for_words: float) -> None:
    """Draw every step, and write what it is where no other line's words stand yet."""
    written: list[float] = []
    for step, index in ((s, line.points[s.index][0]) for line in lines for s in line.steps):
        at = index - 0.5
        axes.axvline(at, color=SOFT, linewidth=1, linestyle=(0, (3, 2)))
        if any(abs(at - other) < room_for_words for other in written):
            continue
        written.append(at)
        axes.annotate(
            change(step),
            (at, 1.02),
            xycoords=("data", "axes fraction"),
            ha="center",
            va="bottom",
            color=SOFT,
            fontsize=9.5,
        )


def change(step: Step) -> str:
    """Return how far a step goes, in percent where that shows, with a sign that is no colour."""
    arrow = "▲" if step.after > step.before else "▼"
    share = 100 * abs(step.after / step.before - 1) if step.before else 0.0
    gap = abs(step.after - step.before)
    return f"{arrow} {share:.1f} %" if share >= 0.1 else f"{arrow} {gap:.1g}"


def _say(line: PlottedLine, dates: Sequence[str], words: Callable[[float], str]) -> str:
    (first, before), (last, now) = line.points[0], line.points[-1]
    start, end = dates[first], dates[last]
    steps = "".join(
        f", {change(step)} on {dates[line.points[step.index][0]]}" for step in line.steps
    )
    return f"{line.name}: {words(before)} on {start}, {words(now)} on {end}{steps}"
