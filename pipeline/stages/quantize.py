"""quantize: an fp32 graph to static W8A8, in the two forms that ship."""

import hashlib
import logging
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

from pipeline.config import HighPrecision, NumericType, PrecisionConfig, Rounding
from pipeline.contracts import Graphs, OnnxModel, SourceModel
from pipeline.datasets import spread
from pipeline.errors import ConfigError, QuantizeError
from pipeline.graph import load_graph, prune, save_graph
from pipeline.half import find_wide_tensors
from pipeline.progress import track
from pipeline.quant.attention import (
    MAX_SEQUENCE,
    AttentionGemm,
    find_attention_gemms,
    insert_attention_qdq,
    scale_attention,
)
from pipeline.quant.conditioning import Conditioned, condition
from pipeline.quant.forms import probe, worst_cosine, write_forms
from pipeline.quant.gemms import add_missing_biases, find_gemm_groups
from pipeline.quant.qdq import insert_qdq
from pipeline.quant.quantized import QuantizedGroup, output_errors, quantize_group
from pipeline.quant.spans import cut_spans
from pipeline.quant.statistics import MAX_TOKENS, observe, unpadded_batches
from pipeline.tokens import Tokenizer, TokenRow, by_exact_length, by_length

log = logging.getLogger(__name__)

MIN_TWIN_COSINE = 0.995
"""TensorRT's graph must agree with ``model.onnx`` to this. fp16 moves values near the middle of two
steps to the other one, so they are not equal; a graph that is broken is far off."""

MIN_FOLD_COSINE = 0.99999
"""Splitting and smoothing must leave the fp32 function unchanged to this cosine."""

_JUDGED_ROWS = 128
"""Held-back texts that reconstruction and search embed again and again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Calibration:
    """The tokenized text: ``fitted`` gives ranges and weights, ``held`` decides between choices."""

    texts: Sequence[str]
    tokenizer: Tokenizer
    fitted: Sequence[TokenRow]
    held: Sequence[TokenRow]
    spans: int


@dataclass(frozen=True, slots=True, kw_only=True)
class _Refined:
    """Which GEMMs stay in int8, and what reconstruction and search measured on the way."""

    int8: Collection[str]
    losses: dict[str, float]
    measured: dict[str, Any]


def quantize(
    model: OnnxModel,
    source: SourceModel,
    config: PrecisionConfig,
    texts: Sequence[str],
    out_dir: Path,
) -> Graphs:
    """Return the int8 graphs of a model, calibrated on ``texts``.

    Raises:
        ConfigError: a setting out of range.
        QuantizeError: no text, no linear GEMM, NaN in an activation, a fold that changed what the
            graph computes, an operator that reconstruction does not know, or a form for TensorRT
            that differs from ``model.onnx``.
    """
    check_quantize(config)
    _refuse_long_attention(source, config)
    if not texts:
        raise QuantizeError(f"{source.name}: no text to calibrate on")
    out_dir.mkdir(parents=True)
    text = _tokenize(source, config, texts)
    batch = probe(text.tokenizer, text.fitted)
    graph = load_graph(model)
    groups = add_missing_biases(graph.graph, find_gemm_groups(graph.graph))
    if not groups:
        raise QuantizeError(
            f"{source.name}: no MatMul with a constant weight in the graph; use precision=fp16"
        )
    tensors = [group.activation for group in groups]
    fitted, held = (
        observe(
            graph,
            tensors,
            track(
                unpadded_batches(text.tokenizer, rows),
                description,
                total=len(by_exact_length(rows, max_tokens=MAX_TOKENS)),
            ),
            moments=moments,
        )
        for rows, description, moments in (
            (text.fitted, "calibrate", config.rounding is Rounding.gptq),
            (text.held, "held back", False),
        )
    )
    conditioned = condition(graph.graph, groups, fitted, held, config)
    path = out_dir / "smoothed.onnx"
    smoothed = save_graph(graph, path, precision=NumericType.fp32, source_sha256=model.sha256)
    fold = worst_cosine(model, smoothed, batch)
    for file in out_dir.glob("smoothed.onnx*"):
        file.unlink()
    if not fold >= MIN_FOLD_COSINE:
        raise QuantizeError(
            f"{source.name}: smoothing changed the fp32 function (cosine {fold:.6f}, expected at "
            f"least {MIN_FOLD_COSINE}); set precision.smoothing_alphas=[0.5]"
        )
    attention = _scale_attention(graph, source, config, text)
    half = config.high_precision is HighPrecision.fp16
    wide = find_wide_tensors(graph, source, text.texts) if half else []
    quantized = [
        quantize_group(
            item.group,
            item.fitted,
            item.step,
            rounding=config.rounding,
            correct_bias=config.bias_correction,
        )
        for item in track(conditioned, "round weights", total=len(conditioned))
    ]
    refined = _refine(graph.graph, quantized, attention, config, text)
    table = _list_gemms(conditioned, quantized, refined)
    for group in quantized:
        insert_qdq(graph.graph, group, refined.int8)
    insert_attention_qdq(graph.graph, attention)
    prune(graph)
    unsigned, signed = write_forms(graph, model, config.high_precision, wide, out_dir)
    twin = worst_cosine(unsigned, signed, batch)
    log.info("the engines' graph agrees with model.onnx: worst cosine %.6f", twin)
    if not twin >= MIN_TWIN_COSINE:
        raise QuantizeError(
            f"{source.name}: with precision.high_precision={config.high_precision} the graph for "
            f"TensorRT differs from model.onnx: cosine {twin:.6f}, expected at least "
            f"{MIN_TWIN_COSINE}; set precision.high_precision=fp32"
        )
    folds = Counter(item.fold for item in conditioned)
    folds["not_shifted"] = sum(config.shift and not item.shifted for item in conditioned)
    return Graphs(
        portable=unsigned,
        buildable=signed,
        quantization={
            "gemms": len(table),
            "gemms_int8": len(refined.int8),
            "attention_gemms_int8": len(attention),
            "method": _describe_method(config),
            "scheme": "W8A8 symmetric, weights per output channel, activations per tensor, static",
            "high_precision": {"model.onnx": "fp32", "engines": config.high_precision.value},
            "engine_graph_worst_cosine_to_model_onnx": twin,
            "smoothing": dict(sorted((+folds).items())),
            "split_channels_added": sum(item.copies_added for item in conditioned),
            "calibration": _describe_calibration(text),
            "gemm_list": table,
            **refined.measured,
        },
    )


def check_quantize(config: PrecisionConfig) -> None:
    """Refuse settings out of range before anything slow runs.

    Raises:
        ConfigError: see the messages.
    """
    alphas = config.smoothing_alphas
    if not alphas or not all(0 <= alpha <= 1 for alpha in alphas):
        raise ConfigError(f"precision.smoothing_alphas={alphas}: expected numbers from 0 to 1")
    if not config.activation_scales:
        raise ConfigError("precision.activation_scales=[]: expected max, percentile or mse")
    if config.calibration_sentences < 1:
        raise ConfigError(
            f"precision.calibration_sentences={config.calibration_sentences}: expected at least 1"
        )
    for name in ("reconstruction_steps", "spans_per_sentence"):
        if getattr(config, name) < 0:
            raise ConfigError(f"precision.{name}={getattr(config, name)}: expected 0 or more")
    for name, value in (("held_back", config.held_back), ("split_share", config.split_share)):
        if not 0 <= value <= 0.5:
            raise ConfigError(f"precision.{name}={value}: expected 0 to 0.5")
    target = config.target.cosine_mean
    if target is not None and not 0 < target < 1:
        raise ConfigError(
            f"precision.target.cosine_mean={target}: expected more than 0 and less than 1"
        )


def _tokenize(source: SourceModel, config: PrecisionConfig, texts: Sequence[str]) -> _Calibration:
    """Choose the text, and hold a part of it back, spread over its kinds."""
    texts = spread(texts, config.calibration_sentences)
    tokenizer = Tokenizer(source.assets, max_length=source.max_length)
    rows = tokenizer.rows([source.prefix + text for text in texts])
    count = int(len(rows) * config.held_back)
    held = set(spread(range(len(rows)), count)) if count else set()
    fitted = [row for i, row in enumerate(rows) if i not in held]
    spans = list(cut_spans(fitted, config.spans_per_sentence))
    return _Calibration(
        texts=texts,
        tokenizer=tokenizer,
        fitted=[*fitted, *spans],
        held=[rows[i] for i in sorted(held)] or rows,
        spans=len(spans),
    )


def _refuse_long_attention(source: SourceModel, config: PrecisionConfig) -> None:
    if config.quantize_attention and source.max_length > MAX_SEQUENCE:
        raise ConfigError(
            f"precision.quantize_attention=true: {source.name} takes {source.max_length} tokens "
            f"and TensorRT fuses int8 attention up to {MAX_SEQUENCE} only, beyond that it is "
            f"slower than fp16; set it to false, or model.max_length={MAX_SEQUENCE}"
        )


def _scale_attention(
    graph: ir.Model, source: SourceModel, config: PrecisionConfig, text: _Calibration
) -> list[AttentionGemm]:
    if not config.quantize_attention:
        return []
    nodes = find_attention_gemms(graph.graph)
    if not nodes:
        raise QuantizeError(
            f"{source.name}: no attention GEMM found in the graph; set "
            "precision.quantize_attention=false"
        )
    return scale_attention(graph, nodes, unpadded_batches(text.tokenizer, text.fitted))


def _refine(
    graph: ir.Graph,
    quantized: Sequence[QuantizedGroup],
    attention: Sequence[AttentionGemm],
    config: PrecisionConfig,
    text: _Calibration,
) -> _Refined:
    """Reconstruct and search, as far as asked for, both judged on the text held back."""
    names = [part.gemm.name for group in quantized for part in group.gemms]
    target, steps = config.target.cosine_mean, config.reconstruction_steps
    if target is None and not steps:
        return _Refined(int8=names, losses={}, measured={})
    from pipeline.quant.reconstruction import reconstruct
    from pipeline.quant.sensitivity import cosine_losses, search
    from pipeline.quant.simulation import Judge, Simulation

    simulation = Simulation(graph, quantized, attention)
    rows = spread(text.held, _JUDGED_ROWS)
    judge = Judge(
        simulation, [text.tokenizer.pad([rows[i] for i in ix]) for ix in by_length(rows, 32)]
    )
    measured: dict[str, Any] = {}
    if steps:
        before, after = reconstruct(simulation, text.fitted, judge, text.tokenizer, steps)
        measured["reconstruction"] = {
            "steps": steps,
            "held_back_cosine_mean": {"before": before, "after": after},
        }
    if target is None:
        return _Refined(int8=names, losses={}, measured=measured)
    losses = cosine_losses(judge, names)
    int8, reached = search(judge, losses, target)
    measured["target"] = {"cosine_mean": target, "held_back_cosine_mean": reached}
    return _Refined(int8=int8, losses=dict(losses), measured=measured)


def _list_gemms(
    conditioned: Sequence[Conditioned], quantized: Sequence[QuantizedGroup], refined: _Refined
) -> list[dict[str, Any]]:
    """Describe every GEMM: how it was quantized, how sensitive it is, why it stayed or left."""
    table = []
    for item, group in zip(conditioned, quantized, strict=True):
        errors = output_errors(group, item.held)
        for part, error in zip(group.gemms, errors, strict=True):
            name = part.gemm.name
            row: dict[str, Any] = {
                "name": name,
                "shape": list(part.integers.shape),
                "int8": name in refined.int8,
                "smoothing": item.fold,
                "alpha": item.alpha,
                "activation_scale": item.scale_method,
                "channels_added": item.copies_added,
                "output_error": error,
            }
            if refined.losses:
                row["cosine_loss"] = refined.losses[name]
                row["reason"] = (
                    "the target holds with it in int8"
                    if row["int8"]
                    else "the target does not hold with it in int8"
                )
            table.append(row)
    return table


def _describe_method(config: PrecisionConfig) -> str:
    alphas = ", ".join(f"{alpha:g}" for alpha in config.smoothing_alphas)
    steps = config.reconstruction_steps
    parts = [
        "outlier channel splitting" if config.split_share else None,
        f"SmoothQuant (alpha {alphas})",
        "shift to midrange" if config.shift else None,
        f"{', '.join(config.activation_scales)} activation scales",
        "GPTQ rounding" if config.rounding is Rounding.gptq else "round to nearest",
        "bias correction" if config.bias_correction else None,
        f"reconstruction ({steps} steps)" if steps else None,
    ]
    return ", ".join(part for part in parts if part)


def _describe_calibration(text: _Calibration) -> dict[str, Any]:
    fitted = text.fitted[: len(text.fitted) - text.spans]
    held = text.held if len(fitted) < len(text.texts) else []
    lengths = np.array([len(row.ids) for row in (*fitted, *held)])
    return {
        "sentences": len(text.texts),
        "held_back": len(held),
        "spans": text.spans,
        "tokens": int(lengths.sum()),
        "sha256": hashlib.sha256("\n".join(text.texts).encode()).hexdigest(),
        "length_tokens": {
            "min": int(lengths.min()),
            "median": float(np.median(lengths)),
            "p95": float(np.quantile(lengths, 0.95)),
            "max": int(lengths.max()),
        },
    }
