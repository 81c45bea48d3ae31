"""Draw histograms and ranges, each an inline SVG with a title and a description.

``name`` starts every id in a figure and is unique on its page. What a figure shows stands in a
table of the same page as well.
"""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from matplotlib.ticker import MaxNLocator

from pipeline.report import numbers
from pipeline.report.plots.svg import (
    BAD,
    LETTER,
    LINE,
    NARROWEST,
    SOFT,
    THIS,
    drawing,
    mark,
    shortened,
    to_svg,
)
from pipeline.report.plots.tradeoff import Ends


def histogram(counts: Mapping[str, Sequence[float]], name: str) -> str:
    """Draw how many texts lost how much cosine; ``counts`` has ``edges`` of 1 − cosine.

    Bins are drawn equally wide, and their edges written: they grow in equal ratios.
    """
    edges, heights = list(counts["edges"]), list(counts["counts"])
    step = -(-len(heights) // 4)
    shown = range(0, len(edges), step)
    with drawing(220, top=24) as axes:
        axes.stairs(heights, range(len(edges)), fill=True, color=THIS)
        axes.set_xticks(list(shown), [numbers.power(edges[i]) for i in shown])
        axes.set_xlabel("1 − cosine to fp32, nearer to the left")
        axes.yaxis.set_major_locator(MaxNLocator(4, integer=True))
        axes.grid(visible=False, axis="x")
        axes.text(0, 1.02, "texts", transform=axes.transAxes, color=SOFT, va="bottom")
        said = "; ".join(
            f"{numbers.power(a)} to {numbers.power(b)}: {n}"
            for (a, b), n in zip(pairwise(edges), heights, strict=True)
            if n
        )
        return to_svg(axes, name, "Texts by what they lost", f"Texts by 1 − cosine. {said}.")


def ranges(groups: Sequence[Mapping[str, Any]], names: Sequence[str], title: str, name: str) -> str:
    """Draw each group's cosines as a line from the lowest to 1, with a dot at the mean."""
    labels = [shortened(name) for name in names]
    left = 14 + LETTER * max(map(len, labels))
    with drawing(46 + 19 * len(groups), left=left, right=24, top=4) as axes:
        rows = range(len(groups))
        lowest = [group["min"] for group in groups]
        for row, group in enumerate(groups):
            axes.plot((group["min"], group["mean"]), (row, row), color=THIS, linewidth=2)
            axes.plot((group["min"], group["min"]), (row - 0.2, row + 0.2), color=THIS)
            mark(axes, group["mean"], row, "o", THIS, size=7)
        axes.set_yticks(list(rows), labels)
        axes.set_ylim(len(groups) - 0.4, -0.6)
        room = max(1 - min(lowest), NARROWEST)
        axes.set_xlim(1 - 1.05 * room, 1 + 0.02 * room)
        axes.xaxis.set_major_locator(MaxNLocator(3))
        axes.set_xlabel("cosine to fp32: lowest and mean", loc="right")
        axes.grid(visible=False, axis="y")
        said = (
            f"{n} mean {numbers.cosine(g['mean'])}, lowest {numbers.cosine(g['min'])}"
            for n, g in zip(names, groups, strict=True)
        )
        return to_svg(axes, name, title, f"{'; '.join(said)}.")


def differences(rows: Sequence[tuple[str, float, Ends]], name: str) -> str:
    """Draw each task score's difference to fp32 with its 95 % interval; left of 0 is a loss."""
    labels = [shortened(label) for label, _, _ in rows]
    left = 14 + LETTER * max(map(len, labels))
    with drawing(50 + 24 * len(rows), left=left, top=4) as axes:
        axes.axvline(0, color=SOFT, linewidth=1)
        for row, (_, delta, ends) in enumerate(rows):
            colour = BAD if ends[1] < 0 else THIS
            axes.plot(ends, (row, row), color=colour, linewidth=2.5)
            mark(axes, delta, row, "o", colour)
        axes.set_yticks(range(len(rows)), labels)
        axes.set_ylim(len(rows) - 0.4, -0.6)
        reach = 1.1 * max(max(abs(end) for end in ends) for _, _, ends in rows) or 1.0
        axes.set_xlim(-reach, reach)
        axes.xaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 5, 10]))
        axes.set_xlabel("points lost (left) or gained, 95 %", loc="right")
        axes.grid(visible=False, axis="y")
        axes.spines["left"].set_color(LINE)
        said = (
            f"{label} {numbers.points(delta)} ({numbers.points_span(ends)})"
            for label, delta, ends in rows
        )
        return to_svg(axes, name, "Task scores against fp32", f"{'; '.join(said)}.")
