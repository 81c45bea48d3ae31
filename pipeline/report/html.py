"""``report.html``: one self-contained page that reads on a phone."""

from collections.abc import Iterable, Mapping
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined


def render_html(data: Mapping[str, Any]) -> str:
    """Return the page for a report's data; it fetches nothing."""
    environment = Environment(
        loader=PackageLoader("pipeline.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["common_prefix"] = _common_prefix
    return environment.get_template("report.html.j2").render(report=data)


def _common_prefix(names: Iterable[str]) -> str:
    """Return the modules, each with its dot, that all dotted names begin with."""
    shared = []
    for parts in zip(*(name.split(".")[:-1] for name in names), strict=False):
        if len(set(parts)) > 1:
            break
        shared.append(f"{parts[0]}.")
    return "".join(shared)
