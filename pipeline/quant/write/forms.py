"""Write the quantized graph in the two forms that ship, and compare graphs by their embeddings."""

import logging
from collections.abc import Sequence
from pathlib import Path

import onnx_ir as ir

from pipeline.config import HighPrecision, NumericType
from pipeline.contracts import OnnxModel, SourceModel
from pipeline.errors import QuantizeError
from pipeline.graph.emulated import emulate_fp8
from pipeline.graph.equivalence import embed_in_pieces, worst_cosine
from pipeline.graph.files import load_graph, prune, save_graph
from pipeline.graph.half import cast_to_half, refuse_subgraphs
from pipeline.quant.write.qdq import to_unsigned_activations
from pipeline.quant.write.tables import scale_rows_behind_lookup
from pipeline.text.tokens import TokenBatch
from pipeline.vectors import FloatArray, row_cosines

log = logging.getLogger(__name__)


MIN_TWIN_COSINE = 0.995
"""TensorRT's graph must agree with ``model.onnx`` to this. fp16 moves values near the middle of two
steps to the other one, so they are not equal; a graph that is broken is far off."""

MIN_FOLD_COSINE = 0.99999
"""Splitting and smoothing must leave the fp32 function unchanged to this cosine."""


def check_fold(graph: ir.Model, exact: FloatArray, source: SourceModel, batch: TokenBatch) -> None:
    """Compare what the graph gives for a batch with what it gave before, both in fp32.

    Raises:
        QuantizeError: a cosine below ``MIN_FOLD_COSINE``.
    """
    worst = float(row_cosines(exact, embed_in_pieces(graph, batch)).min())
    if not worst >= MIN_FOLD_COSINE:
        raise QuantizeError(
            f"{source.name}: smoothing changed the fp32 function (cosine {worst:.6f}, expected at "
            f"least {MIN_FOLD_COSINE}); set precision.smoothing_alphas=[0.5]"
        )


def write_forms(
    graph: ir.Model,
    model: OnnxModel,
    high_precision: HighPrecision,
    wide: Sequence[str],
    out_dir: Path,
    kind: NumericType = NumericType.int8,
) -> tuple[OnnxModel, OnnxModel]:
    """Write the Q/DQ graph as ONNX Runtime wants it and as TensorRT does; the scales are the same.

    ``wide`` names the tensors that fp16 cannot hold. Returns the form in fp32 (of int8 with uint8
    activations), and the one in ``high_precision``.
    """
    path = out_dir / "model.signed.onnx"
    signed = save_graph(graph, path, precision=kind, source_sha256=model.sha256)
    if high_precision is HighPrecision.fp16:
        half = load_graph(signed)
        refuse_subgraphs(half)
        cast_to_half(half, wide)
        signed = save_graph(half, path, precision=kind, source_sha256=model.sha256)
    to_unsigned_activations(graph.graph)
    scale_rows_behind_lookup(graph.graph)
    emulate_fp8(graph)
    prune(graph)
    unsigned = save_graph(graph, out_dir / "model.onnx", precision=kind, source_sha256=model.sha256)
    return unsigned, signed


def check_twin(
    unsigned: OnnxModel,
    signed: OnnxModel,
    source: SourceModel,
    batch: TokenBatch,
    high_precision: HighPrecision,
) -> float:
    """Return how well the two forms agree: the lowest cosine.

    Raises:
        QuantizeError: below ``MIN_TWIN_COSINE``.
    """
    worst = worst_cosine(unsigned, signed, batch)
    log.info("the engines' graph agrees with model.onnx: worst cosine %.6f", worst)
    if not worst >= MIN_TWIN_COSINE:
        raise QuantizeError(
            f"{source.name}: with precision.high_precision={high_precision} the graph for TensorRT "
            f"differs from model.onnx: cosine {worst:.6f}, expected at least {MIN_TWIN_COSINE}; "
            "set precision.high_precision=fp32"
        )
    return worst
