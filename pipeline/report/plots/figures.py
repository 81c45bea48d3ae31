"""Choose which figures a report's numbers give; what was not measured has none."""

from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from pipeline.report import numbers
from pipeline.report.comparison import Line
from pipeline.report.plots.distributions import differences, histogram, ranges
from pipeline.report.plots.search import draw_search
from pipeline.report.plots.tradeoff import (
    Kind,
    Point,
    artifact_point,
    main_task,
    reference_point,
    report_points,
)
from pipeline.report.plots.tradeoff_plot import draw_tradeoff


def draw_tradeoffs(data: Mapping[str, Any]) -> list[Markup]:
    """Return the main task's score over speed, where one was scored, and the cosine over speed."""
    points = report_points(data)
    only_reference = len(points) == 1
    return [] if only_reference else _tradeoffs(points, main_task(data))


def draw_comparison(lines: Sequence[Line]) -> list[Markup]:
    """Return the same for the bundles that can be compared with one another."""
    shown = [line for line in lines if line.comparable and line.artifact["executed"]]
    if not shown:
        return []
    task = main_task(shown[0].report)
    short = len({line.artifact["name"] for line in shown}) == 1
    points = [reference_point([line.artifact for line in shown], task)]
    for line in shown:
        kind: Kind = "this" if line.report["status"] == "passed" else "rejected"
        points.append(artifact_point(line.report, line.artifact, task, kind=kind, short=short))
    return _tradeoffs(points, task)


def _tradeoffs(points: Sequence[Point], task: tuple[str, str] | None) -> list[Markup]:
    found = [draw_tradeoff(points, "cosine", "mean cosine to fp32", "tradeoff-cosine")]
    if task is not None:
        axis = f"{task[0]}: {numbers.metric(task[1])}"
        found.insert(0, draw_tradeoff(points, "task", axis, "tradeoff-task"))
    return [Markup(svg) for svg in found]  # noqa: S704 - svg.to_svg escapes what it is given


def draw_tasks(artifacts: Sequence[Mapping[str, Any]]) -> Markup | None:
    """Return the task scores' differences to fp32, of those that have an interval."""
    rows = []
    for artifact in artifacts:
        suffix = f" {artifact['name']}" if len(artifacts) > 1 else ""
        for name, task in artifact["tasks"].items():
            scores = task["metrics"]
            prefix = f"{name} " if len(artifact["tasks"]) > 1 else ""
            rows += [
                (prefix + numbers.metric(metric) + suffix, score["delta"], tuple(score["ci95"]))
                for metric, score in scores.items()
            ]
    return Markup(differences(rows, "tasks")) if rows else None  # noqa: S704


def draw_searches(artifacts: Sequence[Mapping[str, Any]]) -> dict[str, Markup]:
    """Return each artifact's recall over bytes, by its name, where it was searched."""
    return {
        a["name"]: Markup(draw_search(a["search"]["vectors"], f"{a['name']}-search"))  # noqa: S704
        for a in artifacts
        if "search" in a
    }


def draw_agreement(artifact: Mapping[str, Any]) -> list[tuple[str, Markup]]:
    """Return the artifact's cosine histogram, and its cosines by length and by kind, by title."""
    agreement, name = artifact["agreement"], artifact["name"]
    found = [("How many texts", histogram(agreement["histogram"], f"{name}-texts"))]
    if lengths := agreement["by_length"]:
        names = [f"{row['tokens'][0]}–{row['tokens'][1]}" for row in lengths]
        found.append(("By length in tokens", ranges(lengths, names, "By length", f"{name}-length")))
    if kinds := sorted(agreement["by_kind"], key=lambda row: row["mean"]):
        names = [row["kind"] for row in kinds]
        found.append(("By kind of text", ranges(kinds, names, "By kind", f"{name}-kind")))
    return [(title, Markup(svg)) for title, svg in found]  # noqa: S704
