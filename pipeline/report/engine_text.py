"""Show what plans run, side by side, as lines for a terminal."""

from collections.abc import Mapping, Sequence

from pipeline.engines.layers.records import EngineLayers
from pipeline.engines.layers.summary import bytes_per_token, operations_per_token, summarize


def render_layers(plans: Mapping[str, EngineLayers], shapes: Sequence[tuple[int, int]]) -> str:
    """Return a column for each plan: kernels, blocks, GEMMs, bytes and operations a token.

    ``shapes`` are batches and sequences; the plan's last optimization profile is shown.
    """
    columns: list[dict[str, str]] = [_column(found, shapes) for found in plans.values()]
    labels = list(dict.fromkeys(label for column in columns for label in column))
    rows = [["", *plans], *([label, *(c.get(label, "") for c in columns)] for label in labels)]
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = (
        "  ".join(
            cell.rjust(width) if i else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    )
    return "\n".join(line.rstrip() for line in lines)


def _column(found: EngineLayers, shapes: Sequence[tuple[int, int]]) -> dict[str, str]:
    profile = max(layer.profile for layer in found.layers)
    summary, layers = summarize(found, profile), found.of_profile(profile)
    per_block = summary.kernels_per_block
    column = {
        "kernels": str(summary.kernels),
        "kernels a block": "–" if per_block is None else f"{per_block:g}",
        "attention fused": f"{summary.attention_fused} of {summary.encoder_blocks}",
        "GEMMs": ", ".join(f"{count} {name}" for name, count in summary.gemms.items()),
        "  with epilogue": str(summary.gemms_with_epilogue),
        "only move or convert": str(summary.moves),
    }
    for kind, count in sorted(summary.kinds.items(), key=lambda item: -item[1]):
        column[f"kernels: {kind}"] = str(count)
    for batch, sequence in shapes:
        at = f"{batch} × {sequence}"
        column[f"bytes a token, {at}"] = f"{bytes_per_token(layers, batch, sequence):,.0f}"
        for name, done in operations_per_token(layers, batch, sequence).items():
            column[f"operations a token, {at}, {name}"] = f"{done / 1e6:,.2f} M"
    return column
