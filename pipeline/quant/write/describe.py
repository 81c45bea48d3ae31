"""Describe a quantization for the report."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.config import PrecisionConfig, Rounding
from pipeline.quant.calibrate.grid import Grid, grid_of
from pipeline.quant.condition.conditioning import Conditioned
from pipeline.quant.refine.choices import Refined
from pipeline.quant.round.quantized import QuantizedGroup, output_errors
from pipeline.quant.round.tables import QuantizedTable


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupRecord:
    """What was done to a group, and what it costs; its statistics are not kept."""

    smoothing: Mapping[str, Any]
    fold: str
    shifted: bool
    copies_added: int
    output_errors: Sequence[float]


def record(item: Conditioned, group: QuantizedGroup) -> GroupRecord:
    """Keep of a conditioned and rounded group what the report says of it."""
    return GroupRecord(
        smoothing={
            "smoothing": item.fold,
            "alpha": item.alpha,
            "activation_scale": item.scale_method,
            "channels_added": item.copies_added,
        },
        fold=item.fold,
        shifted=item.shifted,
        copies_added=item.copies_added,
        output_errors=output_errors(group, item.held),
    )


def describe_smoothing(records: Sequence[GroupRecord], *, shift: bool) -> dict[str, int]:
    """Return how many tensors were folded where, and how many could not be shifted."""
    folds = Counter(item.fold for item in records)
    folds["not_shifted"] = sum(shift and not item.shifted for item in records)
    return dict(sorted((+folds).items()))


def list_gemms(
    records: Sequence[GroupRecord], quantized: Sequence[QuantizedGroup], refined: Refined
) -> list[dict[str, Any]]:
    """Describe every GEMM: how it was quantized, how sensitive it is, why it stayed or left."""
    table = []
    for item, group in zip(records, quantized, strict=True):
        kind = group.grid.kind.value
        for part, error in zip(group.gemms, item.output_errors, strict=True):
            name = part.gemm.name
            row: dict[str, Any] = {
                "name": name,
                "node": part.gemm.node.name,
                "shape": list(part.integers.shape),
                kind: name in refined.int8,
                **item.smoothing,
                "output_error": error,
            }
            if refined.losses:
                row["cosine_loss"] = refined.losses[name]
                row["reason"] = (
                    f"the target holds with it in {kind}"
                    if row[kind]
                    else f"the target does not hold with it in {kind}"
                )
            table.append(row)
    return table


def describe_tables(tables: Sequence[QuantizedTable]) -> list[dict[str, Any]]:
    """Describe every embedding table in int8: its name and ``[rows, channels]`` shape."""
    return [{"name": table.name, "shape": list(table.integers.shape)} for table in tables]


def _name_rounding(rounding: Rounding, grid: Grid) -> str:
    if rounding is Rounding.nearest:
        return "round to nearest"
    return "GPTQ rounding" if grid.even else "GPTQ rounding, coordinate descent"


def describe_method(config: PrecisionConfig) -> str:
    """Return the methods in the order they were applied."""
    grid = grid_of(config.type)
    alphas = ", ".join(f"{alpha:g}" for alpha in config.smoothing_alphas)
    steps = config.reconstruction_steps
    parts = [
        "outlier channel splitting" if config.split_share else None,
        f"SmoothQuant (alpha {alphas})" if alphas else None,
        f"shift to {'midrange' if grid.even else 'the mean'}" if config.shift else None,
        "channels read more than once" if config.widen_share else None,
        f"{', '.join(config.activation_scales)} activation scales",
        None if grid.even else "weight scales of least output error",
        _name_rounding(config.rounding, grid),
        "bias correction" if config.bias_correction else None,
        f"reconstruction ({steps} steps)" if steps else None,
    ]
    return ", ".join(part for part in parts if part)
