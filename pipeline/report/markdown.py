"""Render ``report.md``: the verdict in a few lines, for a CI job's summary page."""

from collections.abc import Mapping
from typing import Any

from pipeline.report.engine_text import engine_line
from pipeline.report.next_step import status_words
from pipeline.report.table import COLUMNS, rows
from pipeline.report.tried import HEAD, tried_rows, tried_title

_SHOWN = COLUMNS[2:]


def render_markdown(data: Mapping[str, Any]) -> str:
    """Return the verdict, one table, the failed gates and what to do first."""
    status = status_words(data["status"])
    lines = [f"## {escape(data['model'])} {escape(data['precision'])}: {status}", ""]
    lines += [escape(data["next_step"]), ""]
    lines += [f"- **gate failed** {escape(gate)}" for gate in data["failed_gates"]]
    lines += [""] if data["failed_gates"] else []
    lines += [table_row(_SHOWN), table_row(["---"] * len(_SHOWN))]
    lines += [table_row([row[column] for column in _SHOWN]) for row in rows(data)]
    lines += _tried(data)
    lines += ["", *(f"{escape(words)}." for words in _plans(data))]
    lines += ["", *(f"Not built: {escape(_why(item))}." for item in data["not_built"])]
    device = data["reference"]["device"]
    if device is not None:
        lines.append(
            f"Against PyTorch fp32 on {escape(device)}, text of {escape(data['dataset'])} "
            "that calibration did not see. Everything else: report.html."
        )
    return "\n".join(lines) + "\n"


def _tried(data: Mapping[str, Any]) -> list[str]:
    if "auto" not in data:
        return []
    auto = data["auto"]
    lines = ["", f"Precisions {escape(tried_title(auto))}:", ""]
    lines += [table_row(HEAD), table_row(["---"] * len(HEAD))]
    return [*lines, *(table_row(row) for row in tried_rows(auto))]


def _plans(data: Mapping[str, Any]) -> list[str]:
    return [
        f"{artifact['name']} runs {engine_line(artifact['engine'])}"
        for artifact in data["artifacts"]
        if "engine" in artifact
    ]


def _why(item: Mapping[str, str]) -> str:
    return f"{item['name']} ({item['reason']})"


def table_row(cells: list[str] | tuple[str, ...]) -> str:
    """Return one row of a Markdown table."""
    return f"| {' | '.join(map(escape, cells))} |"


def escape(words: str) -> str:
    """Escape what Markdown and HTML would read as markup, in a single line."""
    for mark in "\\`*[]<>|":
        words = words.replace(mark, f"\\{mark}")
    return " ".join(words.split())
