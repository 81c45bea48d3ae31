"""quantize: an fp32 graph to static W8A8, in the two forms that ship."""

import hashlib
import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

from pipeline.bench.agreement import row_cosines
from pipeline.config import HighPrecision, NumericType, PrecisionConfig, Rounding
from pipeline.contracts import Graphs, OnnxModel, SourceModel
from pipeline.datasets import spread
from pipeline.engines.onnxruntime import OnnxRuntimeEncoder
from pipeline.errors import ConfigError, QuantizeError
from pipeline.graph import load_graph, prune, save_graph
from pipeline.half import cast_to_half, find_wide_tensors, refuse_subgraphs
from pipeline.progress import track
from pipeline.quant.bias_correction import bias_correction
from pipeline.quant.gemms import GemmGroup, add_missing_biases, find_gemm_groups
from pipeline.quant.qdq import insert_qdq, to_unsigned_activations
from pipeline.quant.rounding import round_gptq, round_nearest
from pipeline.quant.scales import activation_scale, weight_scales
from pipeline.quant.smoothing import Smoother, add_to_bias, midrange, smoothing_factors
from pipeline.quant.statistics import (
    MAX_TOKENS,
    Activation,
    observe,
    unpadded_batches,
)
from pipeline.tokens import Tokenizer, TokenRow, by_exact_length

log = logging.getLogger(__name__)

MIN_TWIN_COSINE = 0.995
"""TensorRT's graph must agree with ``model.onnx`` to this. fp16 moves values near the middle of two
steps to the other one, so they are not equal; a graph that is broken is far off."""

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
        QuantizeError: no text, no linear GEMM, NaN in an activation, a smoothing fold that changed
            what the graph computes, or a form for TensorRT that differs from ``model.onnx``.
    """
    check_quantize(config)
    if not texts:
        raise QuantizeError(f"{source.name}: no text to calibrate on")
    out_dir.mkdir(parents=True)
    texts = spread(texts, config.calibration_sentences)
    tokenizer = Tokenizer(source.assets, max_length=source.max_length)
    rows = tokenizer.rows([source.prefix + text for text in texts])
    graph = load_graph(model)
    groups = add_missing_biases(graph.graph, find_gemm_groups(graph.graph))
    if not groups:
        raise QuantizeError(
            f"{source.name}: no MatMul with a constant weight in the graph; use precision=fp16"
        )
    observed = observe(
        graph,
        [group.activation for group in groups],
        track(
            unpadded_batches(tokenizer, rows),
            "calibrate",
            total=len(by_exact_length(rows, max_tokens=MAX_TOKENS)),
        ),
    )
    smoothed, folds = _smooth(graph, groups, observed, config)
    _check_fold(model, graph, source, tokenizer, rows, out_dir)
    half = config.high_precision is HighPrecision.fp16
    wide = find_wide_tensors(graph, source, texts) if half else []
    for group, seen in track(smoothed, "round weights", total=len(smoothed)):
        _quantize_group(graph, group, seen, config)
    prune(graph)
    unsigned, signed = _write_forms(graph, model, config, wide, out_dir)
    twin = _check_twin(unsigned, signed, source, config, tokenizer, rows)
    gemms = sum(len(group.gemms) for group in groups)
    return Graphs(
        portable=unsigned,
        buildable=signed,
        quantization={
            "gemms": gemms,
            "gemms_int8": gemms,
            "method": _describe_method(config),
            "scheme": "W8A8 symmetric, weights per output channel, activations per tensor, static",
            "high_precision": {"model.onnx": "fp32", "engines": config.high_precision.value},
            "engine_graph_worst_cosine_to_model_onnx": twin,
            "smoothing": folds,
            "calibration": _describe_calibration(texts, rows),
        },
    )


def check_quantize(config: PrecisionConfig) -> None:
    """Refuse settings out of range before anything slow runs.

    Raises:
        ConfigError: see the messages.
    """
    if not 0 <= config.smoothing_alpha <= 1:
        raise ConfigError(f"precision.smoothing_alpha={config.smoothing_alpha}: expected 0 to 1")
    if config.calibration_sentences < 1:
        raise ConfigError(
            f"precision.calibration_sentences={config.calibration_sentences}: expected at least 1"
        )


def _smooth(
    graph: ir.Model,
    groups: Sequence[GemmGroup],
    observed: Mapping[str, Activation],
    config: PrecisionConfig,
) -> tuple[list[tuple[GemmGroup, Activation]], dict[str, int]]:
    """Smooth every group, last one first: a value projection is scaled before it is read.

    Returns the groups with the statistics they have now, and how many folds of each kind.
    """
    smoother = Smoother(graph.graph, groups)
    smoothed = []
    folds: Counter[str] = Counter()
    for group in reversed(groups):
        seen = observed[group.name]
        shifts = config.shift and smoother.can_shift(group)
        folds["not_shifted"] += config.shift and not shifts
        shift = midrange(seen) if shifts else np.zeros_like(seen.low)
        weights = [gemm.weight for gemm in group.gemms]
        factors = smoothing_factors(seen.magnitude(shift), weights, config.smoothing_alpha)
        folds[smoother.fold_of(group).value] += 1
        smoothed.append((smoother.smooth(group, shift, factors), seen.transformed(shift, factors)))
    log.info("smoothed %d tensors: %s", len(groups), dict(+folds))
    return smoothed[::-1], dict(sorted((+folds).items()))


def _quantize_group(
    graph: ir.Model, group: GemmGroup, seen: Activation, config: PrecisionConfig
) -> None:
    """Round the weights of a group together (they read the same tensor) and insert Q/DQ."""
    step = activation_scale(seen)
    joined = np.concatenate([gemm.weight for gemm in group.gemms], axis=1)
    scales = weight_scales(joined)
    if config.rounding is Rounding.gptq:
        integers = round_gptq(joined, scales, seen.covariance, noise=float(step) ** 2 / 12)
    else:
        integers = round_nearest(joined, scales)
    cuts = np.cumsum([gemm.weight.shape[1] for gemm in group.gemms])[:-1]
    if config.bias_correction:
        deltas = np.split(bias_correction(seen.mean, joined, integers, scales), cuts)
        for gemm, delta in zip(group.gemms, deltas, strict=True):
            if gemm.bias is not None:
                add_to_bias(graph.graph, gemm, delta)
    weights = zip(np.split(integers, cuts, axis=1), np.split(scales, cuts), strict=True)
    insert_qdq(graph.graph, group, step, list(weights))


def _describe_method(config: PrecisionConfig) -> str:
    parts = [
        f"SmoothQuant (alpha {config.smoothing_alpha})",
        "shift to midrange" if config.shift else None,
        "max scales",
        "GPTQ rounding" if config.rounding is Rounding.gptq else "round to nearest",
        "bias correction" if config.bias_correction else None,
    ]
    return ", ".join(part for part in parts if part)


def _write_forms(
    graph: ir.Model, model: OnnxModel, config: PrecisionConfig, wide: Sequence[str], out_dir: Path
) -> tuple[OnnxModel, OnnxModel]:
    """Write the Q/DQ graph as ONNX Runtime wants it and as TensorRT does; the scales are the same.

    Returns uint8 activations in fp32, and int8 activations in ``high_precision``.
    """
    kind, path = NumericType.int8, out_dir / "model.signed.onnx"
    signed = save_graph(graph, path, precision=kind, source_sha256=model.sha256)
    if config.high_precision is HighPrecision.fp16:
        half = load_graph(signed)
        refuse_subgraphs(half)
        cast_to_half(half, wide)
        signed = save_graph(half, path, precision=kind, source_sha256=model.sha256)
    to_unsigned_activations(graph.graph)
    unsigned = save_graph(graph, out_dir / "model.onnx", precision=kind, source_sha256=model.sha256)
    return unsigned, signed


def _check_twin(
    unsigned: OnnxModel,
    signed: OnnxModel,
    source: SourceModel,
    config: PrecisionConfig,
    tokenizer: Tokenizer,
    rows: Sequence[TokenRow],
) -> float:
    """Return how well the two forms agree: the lowest cosine.

    Raises:
        QuantizeError: below ``MIN_TWIN_COSINE``.
    """
    twin = _compare(unsigned, signed, tokenizer, rows)
    log.info("the engines' graph agrees with model.onnx: worst cosine %.6f", twin)
    if not twin >= MIN_TWIN_COSINE:
        raise QuantizeError(
            f"{source.name}: with precision.high_precision={config.high_precision} the graph for "
            f"TensorRT differs from model.onnx: cosine {twin:.6f}, expected at least "
            f"{MIN_TWIN_COSINE}; set precision.high_precision=fp32"
        )
    return twin


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
    worst = _compare(model, smoothed, tokenizer, rows)
    for file in out_dir.glob("smoothed.onnx*"):
        file.unlink()
    if not worst >= MIN_FOLD_COSINE:
        raise QuantizeError(
            f"{source.name}: smoothing changed the fp32 function (cosine {worst:.6f}, expected at "
            f"least {MIN_FOLD_COSINE}); set precision.smoothing_alpha closer to 0.5"
        )


def _compare(a: OnnxModel, b: OnnxModel, tokenizer: Tokenizer, rows: Sequence[TokenRow]) -> float:
    """Return the lowest cosine between two graphs' embeddings of sixteen texts in one batch."""
    batch = tokenizer.pad(rows[:: max(1, len(rows) // 16)][:16])
    first, second = (OnnxRuntimeEncoder(model.path).encode(batch) for model in (a, b))
    return float(row_cosines(first, second).min())


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
