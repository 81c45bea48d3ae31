"""Draw a search's recall over the bytes of a text that it reads. Up and to the left is better."""

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.ticker import MaxNLocator, NullLocator

from pipeline.report import numbers
from pipeline.report.plots.labels import around, place
from pipeline.report.plots.svg import FONT, LETTER, OTHER, SOFT, THIS, drawing, mark, to_svg


def draw_search(vectors: Sequence[Mapping[str, Any]], name: str) -> str:
    """Return the plot as SVG; vectors that were cut are squares, whole ones circles."""
    full = max(row["dimensions"] for row in vectors)
    said = "; ".join(
        f"{numbers.vectors(v['form'])}: {v['bytes']} bytes, {numbers.percent(v['recall_at_10'])}"
        for v in vectors
    )
    with drawing(262, bottom=38, top=24) as axes:
        sizes = sorted({row["bytes"] for row in vectors})
        axes.set_xscale("log", base=2)
        axes.set_xlim(sizes[0] / 1.8, sizes[-1] * 1.8)
        axes.xaxis.set_minor_locator(NullLocator())
        axes.set_xticks(sizes, [f"{size:,}" for size in sizes])
        axes.set_xlabel("bytes a text")
        lowest = min(row["recall_ci95"][0] for row in vectors)
        axes.set_ylim(max(0.0, lowest - 0.08), 1.04)
        axes.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
        axes.yaxis.set_major_formatter(lambda share, _: f"{100 * share:.0f} %")
        axes.text(0, 1.02, "recall@10", transform=axes.transAxes, color=SOFT, va="bottom")
        for row in vectors:
            colour, shape = (THIS, "o") if row["dimensions"] == full else (OTHER, "s")
            x, (low, high) = row["bytes"], row["recall_ci95"]
            axes.plot((x, x), (low, high), color=colour, linewidth=1.6)
            mark(axes, x, row["recall_at_10"], shape, colour, size=7)
        points = [(row["bytes"], row["recall_at_10"]) for row in vectors]
        anchors = [tuple(map(float, axes.transData.transform(point))) for point in points]
        labels = [numbers.vectors(row["form"]) for row in vectors]
        boxes = place(
            [(x, y) for x, y in anchors],
            [(LETTER * len(label), FONT + 1) for label in labels],
            [around((x, y)) for x, y in anchors],
            axes.bbox.extents,
        )
        for point, label, box in zip(points, labels, boxes, strict=True):
            axes.annotate(
                label,
                point,
                ((box[0] + box[2]) / 2, box[1] + 2),
                textcoords="figure pixels",
                ha="center",
                color=SOFT,
                arrowprops={"arrowstyle": "-", "color": SOFT, "linewidth": 0.6, "shrinkB": 4},
            )
        return to_svg(axes, name, "Recall over bytes a text", f"{said}.")
