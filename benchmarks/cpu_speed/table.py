"""A run's result to Markdown: the page in ``docs/``."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from benchmarks.cpu_speed.findings import findings
from benchmarks.cpu_speed.sides import REFERENCE

Result = Mapping[str, Any]


def render(result: Result) -> str:
    """Return the page; the table's fastest side at natural lengths first, failures last."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=False,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    sides = result["sides"]
    measured = [side for side in sides if "failed" not in side]
    measured.sort(key=lambda side: -side["ratio"]["natural"]["median"])
    reference = next(side for side in measured if side["name"] == REFERENCE)
    return environment.get_template("page.md.j2").render(
        result=result,
        rows=[_row(side) for side in measured],
        missing=[side for side in sides if "failed" in side],
        contents=measured,
        findings=findings(measured),
        spread={shape: _spread(reference["seconds"][shape]) for shape in ("natural", "fixed")},
    )


def _row(side: Result) -> list[str]:
    ratios = [_ratio(side["ratio"][shape]) for shape in ("natural", "fixed", "single")]
    return [
        side["title"],
        ratios[0],
        f"{side['sentences_per_second']:.0f}",
        ratios[1],
        f"{side['tokens_per_second']:.0f}",
        ratios[2],
        f"{side['single_ms']:.2f}",
        f"{side['cosine']['mean']:.5f}",
        f"{side['cosine']['min']:.5f}",
    ]


def _ratio(ratio: Result) -> str:
    """Return ``2.05x [1.98, 2.11]``, without the interval where there is none."""
    text = f"{ratio['median']:.2f}x"
    if ratio["ci95"] is None:
        return text
    low, high = ratio["ci95"]
    return f"{text} [{low:.2f}, {high:.2f}]"


def _spread(rounds: list[list[float]]) -> str:
    seconds = [s for passes in rounds for s in passes]
    return f"{min(seconds):.2f} to {max(seconds):.2f} s"
