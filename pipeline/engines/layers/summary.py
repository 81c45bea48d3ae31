"""Sum up a plan in numbers: kernels, fused attention, GEMMs by type, bytes and operations."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import median

from pipeline.engines.layers.records import EngineLayers, Kind, Layer


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerSummary:
    """One optimization profile of a plan.

    ``kernels_per_block`` is the usual distance from one attention to the next, None where there are
    fewer than two. ``gemms`` counts the linear GEMMs of the graph by what they compute in, several
    in one kernel each; ``moves`` the kernels that only move or convert.
    """

    kernels: int
    kernels_per_block: float | None
    encoder_blocks: int
    attention_fused: int
    gemms: Mapping[str, int]
    gemms_with_epilogue: int
    moves: int
    kinds: Mapping[str, int]


def summarize(found: EngineLayers, profile: int) -> LayerSummary:
    """Return the numbers of one optimization profile."""
    layers = found.of_profile(profile)
    fused = [layer for layer in layers if layer.kind is Kind.attention]
    places = [i for i, layer in enumerate(layers) if layer.kind is Kind.attention]
    gemms: Counter[str] = Counter()
    for layer in layers:
        gemms[layer.type or ""] += len(layer.gemms)
    kinds = Counter(layer.kind.value for layer in layers)
    steps = [after - before for before, after in pairwise(places)]
    return LayerSummary(
        kernels=len(layers),
        kernels_per_block=median(steps) if steps else None,
        encoder_blocks=len(found.attention) or len(fused),
        attention_fused=len(fused),
        gemms=dict(+gemms),
        gemms_with_epilogue=sum(len(layer.gemms) for layer in layers if layer.epilogue),
        moves=kinds[Kind.move] + kinds[Kind.conversion],
        kinds=dict(kinds),
    )


def bytes_per_token(layers: Sequence[Layer], batch: int, sequence: int) -> float:
    """Return the bytes that all kernels read and write, weights among them, for each token."""
    return sum(layer.bytes_at(batch, sequence) for layer in layers) / (batch * sequence)


def operations_per_token(layers: Sequence[Layer], batch: int, sequence: int) -> dict[str, float]:
    """Return the operations of all matrix products for each token, by what they compute in."""
    counts: Counter[str] = Counter()
    for layer in layers:
        counts[layer.type or ""] += layer.operations_at(batch, sequence)
    return {name: count / (batch * sequence) for name, count in (+counts).items()}
