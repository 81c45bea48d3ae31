"""Render ``report.html``: one self-contained page that reads on a phone."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from pipeline.report import numbers
from pipeline.report.comparison import Line
from pipeline.report.engine_text import engine_rows
from pipeline.report.next_step import status_words, verdict, worth
from pipeline.report.plots.tradeoff import main_task
from pipeline.report.published import engines_of
from pipeline.report.tried import HEAD, tried_rows, tried_title

_FILTERS = (
    numbers.cosine,
    numbers.digits,
    numbers.mebibytes,
    numbers.metric,
    numbers.milliseconds,
    numbers.percent,
    numbers.points,
    numbers.power,
    numbers.points_span,
    numbers.ratio,
    numbers.span,
    numbers.vectors,
)
_HEAT = ((0.5, "slow2"), (1.0, "slow1"), (1.5, "fast1"), (2.5, "fast2"), (4.0, "fast3"))


def render_html(data: Mapping[str, Any]) -> str:
    """Return the page for a report's data; it fetches nothing."""
    from pipeline.report.plots.figures import (
        draw_agreement,
        draw_searches,
        draw_tasks,
        draw_tradeoffs,
    )

    executed = [artifact for artifact in data["artifacts"] if artifact["executed"]]
    return (
        environment()
        .get_template("report.html.j2")
        .render(
            report=data,
            executed=executed,
            next_step=data["next_step"],
            main_task=main_task(data),
            tradeoffs=draw_tradeoffs(data),
            task_figure=draw_tasks(executed),
            plans=[*engines_of(data), *data["engines_beside"]],
            search_figures=draw_searches(executed),
            agreement_figures={a["name"]: draw_agreement(a) for a in executed},
        )
    )


def render_comparison(lines: Sequence[Line]) -> str:
    """Return the page for several bundles' lines; it fetches nothing."""
    from pipeline.report.plots.figures import draw_comparison

    models = dict.fromkeys(line.report["model"] for line in lines)
    template = environment().get_template("compare.html.j2")
    return template.render(lines=lines, models=list(models), figures=draw_comparison(lines))


def environment() -> Environment:
    """Return the templates' environment: escapes, and refuses names it does not know."""
    found = Environment(
        loader=PackageLoader("pipeline.report", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    found.filters |= {function.__name__: function for function in _FILTERS}
    found.filters |= {"common_prefix": _common_prefix, "heat": _heat, "grid": _grid}
    found.globals |= {
        "verdict": verdict,
        "worth": worth,
        "status_words": status_words,
        "gate_value": numbers.gate_value,
        "engine_rows": engine_rows,
        "tried_head": HEAD,
        "tried_rows": tried_rows,
        "tried_title": tried_title,
    }
    return found


def _common_prefix(names: Iterable[str]) -> str:
    """Return the modules, each with its dot, that all dotted names begin with."""
    shared = []
    for parts in zip(*(name.split(".")[:-1] for name in names), strict=False):
        if len(set(parts)) > 1:
            break
        shared.append(f"{parts[0]}.")
    return "".join(shared)


def _heat(speedup: Mapping[str, Any]) -> str:
    """Return the class that colours a speed-up; one that is none has no colour."""
    if verdict(speedup) == "no difference":
        return "even"
    return next((name for below, name in _HEAT if speedup["median"] < below), "fast4")


def _grid(
    cells: Sequence[Mapping[str, Any]],
) -> tuple[list[int], dict[int, list[Mapping[str, Any] | None]]]:
    """Return the sequence lengths, and each batch's cells in their order."""
    lengths = sorted({cell["sequence"] for cell in cells})
    by_place = {(cell["batch"], cell["sequence"]): cell for cell in cells}
    batches = sorted({cell["batch"] for cell in cells})
    return lengths, {b: [by_place.get((b, length)) for length in lengths] for b in batches}
