"""Quantize an fp32 graph to static W8A8, int8 or E4M3, in the two forms that ship."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import onnx_ir as ir

from pipeline.config import HighPrecision, NumericType, PrecisionConfig
from pipeline.contracts import Graphs, OnnxModel, SourceModel
from pipeline.errors import QuantizeError
from pipeline.graph.equivalence import embed_in_pieces, probe
from pipeline.graph.files import load_graph, prune
from pipeline.graph.gemms import add_missing_biases, find_gemm_groups
from pipeline.graph.half import find_wide_tensors
from pipeline.graph.observe import unpadded_batches
from pipeline.quant.calibrate.attention import check_attention, scale_attention
from pipeline.quant.calibrate.calibration import (
    choose_text,
    describe_calibration,
)
from pipeline.quant.calibrate.grid import grid_of
from pipeline.quant.calibrate.settings import check_quantize
from pipeline.quant.choose.left_out import add_gains, keep_fp16, left_in_fp16, survey_left_out
from pipeline.quant.choose.prediction import choose_by_prediction
from pipeline.quant.refine.choices import refine
from pipeline.quant.round.tables import round_tables
from pipeline.quant.write.attention import insert_attention_qdq
from pipeline.quant.write.block_by_block import quantize_blocks
from pipeline.quant.write.describe import (
    describe_method,
    describe_smoothing,
    describe_tables,
    list_gemms,
)
from pipeline.quant.write.forms import check_fold, check_twin, write_forms
from pipeline.quant.write.qdq import insert_qdq
from pipeline.quant.write.tables import insert_table_dequantize

log = logging.getLogger(__name__)

_SCHEMES = {
    NumericType.int8: "W8A8 symmetric, weights per output channel, activations per tensor, static",
    NumericType.fp8: "E4M3 weights per output channel and activations per tensor, static",
}


def _name_convolutions(graph: ir.Graph) -> str:
    """Say what holds the weights of a graph without linear GEMMs, where convolutions do."""
    names = [node.name or "" for node in graph if node.op_type == "Conv"]
    return f" but {len(names)} Conv ({names[0]} the first), which stay as they are" if names else ""


def quantize(
    model: OnnxModel,
    source: SourceModel,
    config: PrecisionConfig,
    texts: Sequence[str],
    out_dir: Path,
) -> Graphs:
    """Return the int8 or fp8 graphs of a model, calibrated on ``texts``.

    Raises:
        ConfigError: a setting out of range.
        QuantizeError: no text, no linear GEMM, NaN in an activation, a fold that changed what the
            graph computes, an operator that reconstruction does not know, or a form for TensorRT
            that differs from ``model.onnx``.
    """
    check_quantize(config)
    if config.quantize_attention:
        check_attention(source)
    if not texts:
        raise QuantizeError(f"{source.name}: no text to calibrate on")
    out_dir.mkdir(parents=True)
    grid, kind = grid_of(config.type), config.type.value
    text = choose_text(source, config, texts)
    batch = probe(text.tokenizer, text.sentences)
    graph = load_graph(model)
    groups = find_gemm_groups(graph.graph)
    if not groups:
        raise QuantizeError(
            f"{source.name}: no MatMul with a constant weight in the graph"
            f"{_name_convolutions(graph.graph)}; use precision=fp16"
        )
    choice, left_out = None, []
    if config.engine_aware is not None:
        wide = find_wide_tensors(graph, source, text.texts, config.keep_fp32)
        choice = choose_by_prediction(model, config.engine_aware, text.sentences, wide, out_dir)
        left_out = survey_left_out(model, choice, config, text)
        if not choice.int8:
            return keep_fp16(model, choice, left_out, wide, text, out_dir)
        groups = [group for group in groups if group.gemms[0].name in choice.int8]
    groups = add_missing_biases(graph.graph, groups)
    exact = embed_in_pieces(graph, batch)
    records, quantized = quantize_blocks(graph, groups, text, config)
    smoothing = describe_smoothing(records, shift=config.shift)
    log.info("smoothed %d tensors: %s", len(records), smoothing)
    check_fold(graph, exact, source, batch)
    attention = (
        scale_attention(graph, unpadded_batches(text.tokenizer, text.fitted), grid)
        if config.quantize_attention
        else []
    )
    half = config.high_precision is HighPrecision.fp16
    wide = find_wide_tensors(graph, source, text.texts, config.keep_fp32) if half else []
    tables = round_tables(graph.graph) if config.quantize_embeddings else []
    refined = refine(graph.graph, quantized, attention, tables, config, text)
    table = [*list_gemms(records, quantized, refined), *left_out]
    for group in quantized:
        insert_qdq(graph.graph, group, refined.int8)
    insert_attention_qdq(graph.graph, attention)
    insert_table_dequantize(graph.graph, tables)
    prune(graph)
    unsigned, signed = write_forms(graph, model, config.high_precision, wide, out_dir, config.type)
    chosen: dict[str, Any] = {}
    if choice is not None:
        final_ms = choice.predict_graph(signed)
        if final_ms >= choice.fp16_ms:
            left_out = left_in_fp16(table, choice)
            return keep_fp16(model, choice, left_out, wide, text, out_dir)
        add_gains(table, choice)
        chosen["engine_aware"] = choice.describe(final_ms)
    return Graphs(
        portable=unsigned,
        buildable=signed,
        quantization={
            "gemms": len(table),
            "type": kind,
            f"gemms_{kind}": len(refined.int8),
            f"attention_gemms_{kind}": len(attention),
            "embedding_tables_int8": describe_tables(tables),
            "method": describe_method(config),
            "scheme": _SCHEMES[config.type],
            "high_precision": {"model.onnx": "fp32", "engines": config.high_precision.value},
            "engine_graph_worst_cosine_to_model_onnx": check_twin(
                unsigned, signed, source, batch, config.high_precision
            ),
            "smoothing": smoothing,
            "split_channels_added": sum(item.copies_added for item in records),
            "calibration": describe_calibration(text),
            "gemm_list": table,
            **refined.measured,
            **chosen,
        },
    )
