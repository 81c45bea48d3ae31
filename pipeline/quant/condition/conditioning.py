"""Make an fp32 graph easy to quantize without changing what it computes: split, smooth, widen."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from pipeline.config import PrecisionConfig, Rounding
from pipeline.graph.gemms import GemmGroup
from pipeline.quant.calibrate.grid import Grid, grid_of
from pipeline.quant.calibrate.scales import LEVELS, activation_scale
from pipeline.quant.calibrate.statistics import Activation
from pipeline.quant.condition.smoothing import Smoother, midrange
from pipeline.quant.condition.splitting import (
    activation_errors,
    choose_copies,
    find_expansion,
    split,
    stagger,
)
from pipeline.quant.condition.strength import choose_strength
from pipeline.quant.condition.widening import widen
from pipeline.vectors import FloatArray, IntArray

_GPTQ_SHARE = 0.35
"""What GPTQ leaves of the output error of rounding to nearest, about."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Conditioned:
    """A group as it reads its tensor now, that tensor's statistics now, and what was done."""

    group: GemmGroup
    fitted: Activation
    held: Activation
    step: np.float32
    alpha: float
    scale_method: str
    fold: str
    shifted: bool
    copies_added: int


def condition(
    graph: ir.Graph,
    groups: Sequence[GemmGroup],
    fitted: Mapping[str, Activation],
    held: Mapping[str, Activation],
    config: PrecisionConfig,
) -> list[Conditioned]:
    """Change the graph in place and return every group, in graph order.

    ``fitted`` and ``held`` are the statistics of the groups' tensors, by name, on calibration text
    and on text held back from it. The last group goes first: a value projection is scaled before
    it is read.
    """
    grid = grid_of(config.type)
    splits = _split_outliers(graph, groups, fitted, config.split_share)
    smoother = Smoother(graph, groups)
    done = []
    for group in groups[::-1]:
        seen, unseen = fitted[group.name], held[group.name]
        copies, order = splits.get(group.name, (None, None))
        if order is not None:
            seen, unseen = seen.taken(order), unseen.taken(order)
        shifts = config.shift and smoother.can_shift(group)
        shift = _centre(seen, grid) if shifts else np.zeros_like(seen.low)
        strength = choose_strength(
            seen,
            unseen,
            [gemm.weight for gemm in group.gemms],
            shift,
            config.smoothing_alphas,
            config.activation_scales,
            rounding_share=_GPTQ_SHARE if config.rounding is Rounding.gptq else 1.0,
            grid=grid,
        )
        factors = strength.factors
        if copies is not None and shifts:
            step = (seen.magnitude(shift) / factors).max() / LEVELS
            shift = shift + (step * factors * stagger(copies)).astype(np.float32)
        fold = smoother.fold_of(group)
        smoothed = smoother.smooth(group, shift, factors)
        seen, unseen = seen.transformed(shift, factors), unseen.transformed(shift, factors)
        step = activation_scale(seen, strength.method, grid)
        added = 0 if copies is None else int(copies.sum() - len(copies))
        if copies is None and config.widen_share:
            widened = widen(graph, smoothed, seen, step, config.widen_share, grid)
            if widened is not None:
                smoothed, added = widened.group, widened.added
                seen, unseen = widened.read(seen), widened.read(unseen)
        done.append(
            Conditioned(
                group=smoothed,
                fitted=seen,
                held=unseen,
                step=step,
                alpha=strength.alpha,
                scale_method=strength.method.value,
                fold=fold.value,
                shifted=shifts,
                copies_added=added,
            )
        )
    return done[::-1]


def _centre(seen: Activation, grid: Grid) -> FloatArray:
    """Return what to take from each channel.

    int8: the middle of the range, so that the step is small. E4M3: the mean, since its error is a
    share of what is left.
    """
    return midrange(seen) if grid.even else seen.mean.astype(np.float32)


def _split_outliers(
    graph: ir.Graph,
    groups: Sequence[GemmGroup],
    fitted: Mapping[str, Activation],
    share: float,
) -> dict[str, tuple[IntArray, IntArray]]:
    """Copy outlier channels where that takes no operator.

    Returns, by tensor, how often each channel appears and where each channel now comes from.
    """
    gemms = {gemm.output: gemm for group in groups for gemm in group.gemms}
    splits = {}
    for group in groups:
        expansion = find_expansion(group, gemms)
        if expansion is None:
            continue
        seen = fitted[group.name]
        weights = [gemm.weight for gemm in group.gemms]
        copies = choose_copies(activation_errors(seen.magnitude(midrange(seen)), weights), share)
        if copies.max() > 1:
            splits[group.name] = (copies, split(graph, group, expansion, copies))
    return splits
