"""Write the short forms of a night: ``trend.md`` for a CI summary page, ``trend.junit.xml``."""

from collections.abc import Iterator
from typing import Literal

from pipeline.history.judge.metrics import SPEEDS
from pipeline.history.keep.records import STATES, Finding
from pipeline.history.keep.status import State
from pipeline.history.show.trend import CellView, Trend
from pipeline.report import numbers
from pipeline.report.junit import JUnitCase, to_xml
from pipeline.report.markdown import escape, table_row

_MOST = 30
"""Findings that the Markdown lists; the page has all."""


def render_markdown(trend: Trend) -> str:
    """Return the counts, a table for each device, and the findings, those that fail first."""
    night = trend.nights[-1]
    lines = [f"## Night of {trend.label(night)}: {headline(trend)}", ""]
    shown = [finding for finding in trend.findings if finding.fails][:_MOST]
    lines += [f"- **{finding.kind}** {escape(describe(finding))}" for finding in shown]
    if rest := len(trend.findings) - len(shown):
        lines.append(f"- {rest} more in trend.html")
    for device in trend.devices:
        precisions = trend.precisions(device)
        lines += [
            "",
            table_row([trend.heading(device), *precisions]),
            table_row(["---"] * (1 + len(precisions))),
        ]
        for model, squares in trend.matrix(device).items():
            lines.append(
                table_row(
                    [model, *("; ".join(_square(trend, c) for c in cells) for cells in squares)]
                )
            )
    lines += [
        "",
        "Speed-up over PyTorch fp32 of the fastest artifact, its change to the ten nights ",
    ]
    lines[-1] += "before, mean cosine. The lines over the nights: trend.html."
    return "\n".join(lines) + "\n"


def headline(trend: Trend) -> str:
    """Return how many cells are in each state, and how many of the findings fail the night."""
    counts = [f"{n} {state}" for state in STATES if (n := trend.count(state))]
    regressions = sum(f.kind == "regression" and f.rule != "gate" for f in trend.findings)
    if regressions:
        counts.append(f"{regressions} confirmed slower")
    if absent := trend.count("absent"):
        counts.append(f"{absent} not in this night")
    return ", ".join(counts)


def describe(finding: Finding) -> str:
    """Return a finding as one line."""
    what = f"{finding.cell} {finding.artifact}".strip()
    return f"{what}: {finding.text}"


def _square(trend: Trend, cell: CellView) -> str:
    if cell.tonight is None:
        return f"not in this night, last on {trend.label(cell.last.night)}"
    if cell.state != "published":
        return cell.state.upper()
    speed, cosine = cell.figure("speedup"), cell.figure("cosine_mean")
    return ", ".join(
        (
            numbers.ratio(None if speed is None else speed.value) + _change(cell),
            numbers.cosine(None if cosine is None else cosine.value),
        )
    )


def _change(cell: CellView) -> str:
    if cell.change is None or cell.change.direction == "same":
        return ""
    arrow = "▲" if cell.change.direction == "faster" else "▼"
    return f" {arrow} {100 * abs(cell.change.share):.1f} %"


def render_junit(trend: Trend) -> str:
    """Return the last night as JUnit XML.

    A case for each state of a cell that the night had, and each speed that was judged, and one
    more for every other finding that fails.
    """
    cases = [case for cell in trend.tonight for case in _cases(cell)]
    return to_xml(f"night {trend.nights[-1]}", cases)


def _cases(cell: CellView) -> Iterator[JUnitCase]:
    findings = list(cell.findings)
    names: list[tuple[str, str]] = [("", "state")]
    if cell.tonight is not None:
        names += [
            (artifact.name, metric)
            for artifact in cell.tonight.artifacts
            for metric in SPEEDS
            if artifact.figures.get(metric) is not None
        ]
    names += [(f.artifact, f.metric) for f in findings if f.fails]
    for artifact, metric in dict.fromkeys(names):
        own = [f for f in findings if (f.artifact, f.metric) == (artifact, metric)]
        yield _case(cell, f"{artifact} {metric}".strip(), own)


def _case(cell: CellView, name: str, findings: list[Finding]) -> JUnitCase:
    failing = [finding.text for finding in findings if finding.fails]
    passed: Literal["passed", "skipped"] = "passed"
    if name == "state" and cell.state == State.skipped:
        passed = "skipped"
    return JUnitCase(
        classname=cell.last.cell,
        name=name,
        outcome="failure" if failing else passed,
        message="; ".join(failing or [finding.text for finding in findings]),
    )
