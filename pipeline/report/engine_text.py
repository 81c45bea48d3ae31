"""Show what plans run, side by side: words and numbers for terminals and pages."""

from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.report import numbers

Entry = Mapping[str, Any]


def render_engines(engines: Mapping[str, Entry]) -> str:
    """Return a column for each ``engine`` of ``report.json``, aligned for a terminal."""
    rows = [["", *engines], *engine_rows(list(engines.values()))]
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = (
        "  ".join(
            cell.rjust(width) if i else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    )
    return "\n".join(line.rstrip() for line in lines)


def engine_rows(engines: Sequence[Entry]) -> list[list[str]]:
    """Return a label and each engine's value a row; empty where an engine has none of it."""
    columns = [_column(engine) for engine in engines]
    labels = sorted(dict.fromkeys(label for column in columns for label in column), key=_group)
    return [[label, *(column.get(label, "") for column in columns)] for label in labels]


_GROUPS = ("", "kernels: ", "bytes a token", "operations a token", "predicted")


def _group(label: str) -> int:
    """Return where a row stands: those of one kind together, whichever engine has them first."""
    return max(i for i, start in enumerate(_GROUPS) if label.startswith(start))


def engine_line(engine: Entry) -> str:
    """Return what a plan runs in one line."""
    gemms = ", ".join(f"{count} {name}" for name, count in engine["gemms"].items())
    shape, moved = _main(engine["bytes_per_token"])
    return (
        f"{engine['kernels']} kernels, attention fused in {engine['attention_fused']} of "
        f"{engine['encoder_blocks']} blocks, GEMMs: {gemms} ({engine['gemms_with_epilogue']} with "
        f"epilogue), {moved:,} bytes a token at {_times(shape)}"
    )


def _main(by_shape: Mapping[str, Any]) -> tuple[str, Any]:
    shape = "32x128" if "32x128" in by_shape else list(by_shape)[-1]
    return shape, by_shape[shape]


def _times(shape: str) -> str:
    return shape.replace("x", " × ")


def _column(engine: Entry) -> dict[str, str]:
    per_block = engine["kernels_per_block"]
    column = {
        "built for": engine["target"],
        "kernels": str(engine["kernels"]),
        "kernels a block": "–" if per_block is None else f"{per_block:g}",
        "attention fused": f"{engine['attention_fused']} of {engine['encoder_blocks']}",
        "GEMMs": ", ".join(f"{count} {name}" for name, count in engine["gemms"].items()),
        "GEMMs with epilogue": str(engine["gemms_with_epilogue"]),
        "only move or convert": str(engine["moves"]),
    }
    for kind, count in sorted(engine["kinds"].items(), key=lambda item: -item[1]):
        column[f"kernels: {kind}"] = str(count)
    for shape, moved in engine["bytes_per_token"].items():
        column[f"bytes a token, {_times(shape)}"] = f"{moved:,}"
    shape, operations = _main(engine["operations_per_token"])
    for name, count in operations.items():
        column[f"operations a token, {_times(shape)}, {name}"] = f"{count / 1e6:,.2f} M"
    for gpu, by_shape in engine["predicted_ms"].items():
        for shape, time in by_shape.items():
            if shape in ("1x16", "32x128") or len(by_shape) == 1:
                label = f"predicted, {gpu}, {_times(shape)}"
                column[label] = numbers.milliseconds(time)
    return column
