"""quantize: an fp32 graph to static W8A8, in the two forms that ship."""

import hashlib
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

from pipeline.bench.agreement import row_cosines
from pipeline.config import NumericType, PrecisionConfig
from pipeline.contracts import Graphs, OnnxModel, SourceModel
from pipeline.datasets import spread
from pipeline.engines.onnxruntime import OnnxRuntimeEncoder
from pipeline.errors import ConfigError, QuantizeError
from pipeline.graph import load_graph, prune, save_graph
from pipeline.progress import track
from pipeline.quant.gemms import GemmGroup, find_gemm_groups
from pipeline.quant.qdq import insert_qdq, to_unsigned_activations
from pipeline.quant.scales import activation_scale, round_weight, weight_scales
from pipeline.quant.smoothing import smooth
from pipeline.quant.statistics import ChannelRange, channel_ranges, unpadded_batches
from pipeline.tokens import Tokenizer, TokenRow, by_exact_length

log = logging.getLogger(__name__)

MIN_FOLD_COSINE = 0.99999
"""Smoothing must leave the fp32 function unchanged to this cosine."""


def quantize(
    model: OnnxModel,
    source: SourceModel,
    config: PrecisionConfig,
    texts: Sequence[str],
    out_dir: Path,
) -> Graphs:
    """Return the int8 graphs of a model, calibrated on ``texts``.

    Raises:
        ConfigError: a smoothing strength outside 0 to 1.
        QuantizeError: no linear GEMM in the graph, NaN in an activation, or a smoothing fold that
            changed what the graph computes.
    """
    if not 0 <= config.smoothing_alpha <= 1:
        raise ConfigError(f"precision.smoothing_alpha={config.smoothing_alpha}: expected 0 to 1")
    if config.calibration_sentences < 1:
        raise ConfigError(
            f"precision.calibration_sentences={config.calibration_sentences}: expected at least 1"
        )
    out_dir.mkdir(parents=True)
    texts = spread(texts, config.calibration_sentences)
    tokenizer = Tokenizer(source.assets, max_length=source.max_length)
    rows = tokenizer.rows(texts)
    graph = load_graph(model)
    groups = find_gemm_groups(graph.graph)
    if not groups:
        raise QuantizeError(
            f"{source.name}: no MatMul with a constant weight in the graph; use precision=fp16"
        )
    batches = len(by_exact_length(rows, max_tokens=2048))
    observed = channel_ranges(
        graph,
        [group.activation for group in groups],
        track(unpadded_batches(tokenizer, rows), "calibrate", total=batches),
    )
    smoothed, folds = _smooth_all(graph, groups, observed, config.smoothing_alpha)
    _check_fold(model, graph, source, tokenizer, rows, out_dir)
    for group, seen in smoothed:
        quantized = []
        for gemm in group.gemms:
            scales = weight_scales(gemm.weight)
            quantized.append((round_weight(gemm.weight, scales), scales))
        insert_qdq(graph.graph, group, activation_scale(seen), quantized)
    prune(graph)
    signed = save_graph(
        graph,
        out_dir / "model.signed.onnx",
        precision=NumericType.int8,
        source_sha256=model.sha256,
    )
    to_unsigned_activations(graph.graph)
    unsigned = save_graph(
        graph, out_dir / "model.onnx", precision=NumericType.int8, source_sha256=model.sha256
    )
    gemms = sum(len(group.gemms) for group in groups)
    return Graphs(
        portable=unsigned,
        buildable=signed,
        quantization={
            "gemms": gemms,
            "gemms_int8": gemms,
            "method": f"SmoothQuant (alpha {config.smoothing_alpha}), max scales, round to nearest",
            "scheme": "W8A8 symmetric, weights per output channel, activations per tensor, static",
            "smoothing": folds,
            "calibration": _describe_calibration(texts, rows),
        },
    )


def _smooth_all(
    graph: ir.Model,
    groups: list[GemmGroup],
    observed: Mapping[str, ChannelRange],
    alpha: float,
) -> tuple[list[tuple[GemmGroup, ChannelRange]], dict[str, int]]:
    """Smooth every group, last one first: a value projection is scaled before it is read."""
    by_output = {gemm.output: gemm for group in groups for gemm in group.gemms}
    smoothed, folds = [], dict[str, int]()
    for group in reversed(groups):
        after, seen, fold = smooth(graph.graph, group, observed[group.name], alpha, by_output)
        smoothed.append((after, seen))
        folds[fold.value] = folds.get(fold.value, 0) + 1
    log.info("smoothed %d tensors: %s", len(groups), folds)
    return smoothed[::-1], dict(sorted(folds.items()))


def _check_fold(
    model: OnnxModel,
    graph: ir.Model,
    source: SourceModel,
    tokenizer: Tokenizer,
    rows: Sequence[TokenRow],
    out_dir: Path,
) -> None:
    """Compare the smoothed fp32 graph with the one it came from.

    Raises:
        QuantizeError: a cosine below ``MIN_FOLD_COSINE``.
    """
    path = out_dir / "smoothed.onnx"
    smoothed = save_graph(graph, path, precision=NumericType.fp32, source_sha256=model.sha256)
    batch = tokenizer.pad(rows[:: max(1, len(rows) // 16)][:16])
    before = OnnxRuntimeEncoder(model.path).encode(batch)
    after = OnnxRuntimeEncoder(smoothed.path).encode(batch)
    worst = float(row_cosines(before, after).min())
    for file in out_dir.glob("smoothed.onnx*"):
        file.unlink()
    if not worst >= MIN_FOLD_COSINE:
        raise QuantizeError(
            f"{source.name}: smoothing changed the fp32 function (cosine {worst:.6f}, expected at "
            f"least {MIN_FOLD_COSINE}); set precision.smoothing_alpha closer to 0.5"
        )


def _describe_calibration(texts: Sequence[str], rows: Sequence[TokenRow]) -> dict[str, Any]:
    lengths = np.array([len(row.ids) for row in rows])
    return {
        "sentences": len(texts),
        "tokens": int(lengths.sum()),
        "sha256": hashlib.sha256("\n".join(texts).encode()).hexdigest(),
        "length_tokens": {
            "min": int(lengths.min()),
            "median": float(np.median(lengths)),
            "p95": float(np.quantile(lengths, 0.95)),
            "max": int(lengths.max()),
        },
    }
