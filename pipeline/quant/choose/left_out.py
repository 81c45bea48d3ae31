"""Keep GEMMs in fp16 where int8 is no faster by prediction, and say what they would have cost."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline.config import NumericType, PrecisionConfig
from pipeline.contracts import Graphs, OnnxModel
from pipeline.graph.files import load_graph, save_graph
from pipeline.graph.gemms import add_missing_biases, find_gemm_groups
from pipeline.graph.half import cast_to_half, refuse_subgraphs
from pipeline.quant.calibrate.calibration import Calibration, describe_calibration
from pipeline.quant.choose.prediction import SETTING, Choice
from pipeline.quant.refine.choices import Refined
from pipeline.quant.write.block_by_block import quantize_blocks
from pipeline.quant.write.describe import list_gemms

log = logging.getLogger(__name__)

Rows = list[dict[str, Any]]


def survey_left_out(
    model: OnnxModel, choice: Choice, config: PrecisionConfig, text: Calibration
) -> Rows:
    """Return a row for each GEMM that the choice leaves out, with its error as if it were in int8.

    The whole graph is conditioned for that, on a copy.
    """
    graph = load_graph(model)
    groups = add_missing_biases(graph.graph, find_gemm_groups(graph.graph))
    if all(group.gemms[0].name in choice.int8 for group in groups):
        return []
    records, quantized = quantize_blocks(graph, groups, text, config)
    left = [
        (item, group)
        for item, group in zip(records, quantized, strict=True)
        if group.gemms[0].gemm.name not in choice.int8
    ]
    nothing = Refined(int8=(), losses={}, measured={})
    rows = list_gemms([item for item, _ in left], [group for _, group in left], nothing)
    return left_in_fp16(rows, choice)


def left_in_fp16(rows: Sequence[Mapping[str, Any]], choice: Choice) -> Rows:
    """Return rows of GEMMs that stay in fp16 since int8 is no faster by prediction."""
    reason = f"no faster in int8 on {choice.gpu.label}, by prediction"
    changed = [{**row, "int8": False, "reason": reason} for row in rows]
    add_gains(changed, choice)
    return changed


def add_gains(rows: Sequence[dict[str, Any]], choice: Choice) -> None:
    """Add to each row what int8 for its role alone would spare, in microseconds."""
    gains = choice.gains_us()
    for row in rows:
        row["predicted_gain_us"] = gains.get(row["name"])


def keep_fp16(
    model: OnnxModel,
    choice: Choice,
    rows: Rows,
    wide: Sequence[str],
    text: Calibration,
    out_dir: Path,
) -> Graphs:
    """Return the fp32 graph and its cast to fp16: by prediction no int8 beats it."""
    log.warning(
        "%s=%s: no GEMM in int8, fp16 is the fastest by prediction; publish precision=fp16 instead",
        SETTING,
        choice.gpu.name,
    )
    kind, name = NumericType.int8, "model.signed.onnx"
    half = load_graph(model)
    refuse_subgraphs(half)
    cast_to_half(half, wide)
    signed = save_graph(half, out_dir / name, precision=kind, source_sha256=model.sha256)
    portable = save_graph(
        load_graph(model), out_dir / "model.onnx", precision=kind, source_sha256=model.sha256
    )
    return Graphs(
        portable=portable,
        buildable=signed,
        quantization={
            "gemms": len(rows),
            "gemms_int8": 0,
            "attention_gemms_int8": 0,
            "method": f"none: fp16 is the fastest on {choice.gpu.label} by prediction",
            "scheme": "none",
            "high_precision": {"model.onnx": "fp32", "engines": "fp16"},
            "calibration": describe_calibration(text),
            "gemm_list": rows,
            "engine_aware": choice.describe(choice.fp16_ms),
        },
    )
