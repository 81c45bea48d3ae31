"""Render ``trend.html``: the matrix of the last night, then each cell's lines. No script."""

import os
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import quote

from markupsafe import Markup

from pipeline.history.judge.metrics import least_step
from pipeline.history.judge.steps import find_steps
from pipeline.history.keep.records import Entry, label_night
from pipeline.history.show.summary import headline
from pipeline.history.show.trend import CellView, Trend
from pipeline.history.show.trend_plot import STYLES, PlottedLine, draw_trend
from pipeline.report import numbers
from pipeline.report.html import environment

SIGNS = {"published": "✓", "missing": "?", "stopped": "■", "skipped": "–"}
"""What stands beside a state's word; ✕ for the others."""

_PLOTS = {
    "speedup": ("Speed-up over PyTorch fp32", "speedup"),
    "latency_p50_ms": ("One sentence, p50 in ms", "latency_speedup"),
    "cosine_mean": ("Mean cosine to fp32", "cosine_mean"),
}
"""Metric, its title, and the metric whose findings are marked on its lines."""

_FLATTEST = 0.1
"""Lines of speed are drawn over at least this share of their level: less is noise, not a cliff."""
_SPARK = (66.0, 18.0)


def render_html(trend: Trend, directory: Path, *, database: Path) -> str:
    """Return the page; its links to each night's own report are relative to ``directory``."""

    def link(entry: Entry) -> str | None:
        page = None if entry.page is None else database.parent / entry.page
        if page is None or not page.is_file():
            return None
        return quote(Path(os.path.relpath(page, directory)).as_posix())

    template = environment().get_template("trend.html.j2")
    return template.render(
        trend=trend,
        figures={cell.anchor: _draw(cell, trend.nights) for cell in trend.cells},
        sparks={cell.anchor: _spark(cell, trend.nights) for cell in trend.cells},
        link=link,
        headline=headline(trend),
        signs=SIGNS,
    )


def _draw(cell: CellView, nights: Sequence[str]) -> list[tuple[str, str, Markup]]:
    """Return each plot of a cell: its title, the key to its lines, the SVG."""
    found = []
    for metric, (title, judged) in _PLOTS.items():
        lines = _lines(cell, metric, judged, nights)[: len(STYLES)]
        if not lines:
            continue
        is_cosine = metric == "cosine_mean"
        svg = draw_trend(
            lines,
            [label_night(night, nights) for night in nights],
            title=f"{cell.last.cell}: {title}",
            name=f"{cell.anchor}-{metric}",
            least=5e-5 if is_cosine else _FLATTEST * max(line.points[-1][1] for line in lines),
            words=numbers.cosine if is_cosine else numbers.digits,
        )
        keys = zip(lines, STYLES, strict=False)
        key = ", ".join(f"{style}: {line.name}" for line, style in keys)
        found.append((title, key, Markup(svg)))  # noqa: S704 - svg.to_svg escapes what it is given
    return found


def _lines(cell: CellView, metric: str, judged: str, nights: Sequence[str]) -> list[PlottedLine]:
    index = {night: i for i, night in enumerate(nights)}
    found = []
    for artifact in cell.artifacts:
        points = [
            (index[entry.night], figure.value)
            for entry in cell.entries
            if (figure := entry.figure(artifact, metric)) is not None
        ]
        if not points:
            continue
        values = [value for _, value in points]
        slower = [
            index[entry.night]
            for entry in cell.entries
            for finding in entry.findings
            if (finding.kind, finding.artifact, finding.metric) == ("regression", artifact, judged)
        ]
        steps = find_steps(values, least=least_step(metric, values))
        found.append(PlottedLine(name=artifact, points=points, steps=steps, slower=slower))
    return found


def _spark(cell: CellView, nights: Sequence[str]) -> str | None:
    """Return the chief artifact's speed-up as the points of a small polyline, or None."""
    index = {night: i for i, night in enumerate(nights)}
    points = [
        (index[entry.night], figure.value)
        for entry in cell.entries
        if cell.chief is not None and (figure := entry.figure(cell.chief, "speedup")) is not None
    ]
    if len(points) < 2:
        return None
    values = [value for _, value in points]
    middle = (max(values) + min(values)) / 2
    room = max(max(values) - min(values), _FLATTEST * middle)
    width, height = _SPARK
    return " ".join(
        f"{width * i / (len(nights) - 1):.1f},{height * (0.5 - 0.9 * (value - middle) / room):.1f}"
        for i, value in points
    )
