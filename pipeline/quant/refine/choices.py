"""Decide after rounding, on held-back text: reconstruction, and which GEMMs stay in int8."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import onnx_ir as ir

from pipeline.config import PrecisionConfig
from pipeline.quant.calibrate.attention import AttentionGemm
from pipeline.quant.calibrate.calibration import Calibration
from pipeline.quant.round.quantized import QuantizedGroup
from pipeline.quant.round.tables import QuantizedTable
from pipeline.text.datasets import spread
from pipeline.text.tokens import by_length

_JUDGED_ROWS = 128
"""Held-back texts that reconstruction and search embed again and again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Refined:
    """Which GEMMs stay in int8, and what reconstruction and search measured on the way."""

    int8: Collection[str]
    losses: Mapping[str, float]
    measured: Mapping[str, Any]


def refine(
    graph: ir.Graph,
    quantized: Sequence[QuantizedGroup],
    attention: Sequence[AttentionGemm],
    tables: Sequence[QuantizedTable],
    config: PrecisionConfig,
    text: Calibration,
) -> Refined:
    """Reconstruct and search, as far as asked for, both measured on the text held back.

    Reconstruction changes ``quantized``.

    Raises:
        QuantizeError: the graph holds an operator that cannot be simulated.
    """
    names = [part.gemm.name for group in quantized for part in group.gemms]
    target, steps = config.target.cosine_mean, config.reconstruction_steps
    if target is None and not steps:
        return Refined(int8=names, losses={}, measured={})
    from pipeline.quant.refine.reconstruction import reconstruct
    from pipeline.quant.refine.sensitivity import cosine_losses, search
    from pipeline.quant.refine.simulation import HeldBack, Simulation

    simulation = Simulation(graph, quantized, attention, tables)
    rows = spread(text.held, _JUDGED_ROWS)
    held_back = HeldBack(
        simulation, [text.tokenizer.pad([rows[i] for i in ix]) for ix in by_length(rows, 32)]
    )
    measured: dict[str, Any] = {}
    if steps:
        before, after = reconstruct(simulation, text.fitted, held_back, text.tokenizer, steps)
        measured["reconstruction"] = {
            "steps": steps,
            "held_back_cosine_mean": {"before": before, "after": after},
        }
    if target is None:
        return Refined(int8=names, losses={}, measured=measured)
    losses = cosine_losses(held_back, names)
    int8, reached = search(held_back, losses, target)
    measured["target"] = {"cosine_mean": target, "held_back_cosine_mean": reached}
    return Refined(int8=int8, losses=losses, measured=measured)
