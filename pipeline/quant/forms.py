"""Write the int8 graph in the two forms that ship, and compare graphs by their embeddings."""

from collections.abc import Sequence
from pathlib import Path

import onnx_ir as ir

from pipeline.bench.agreement import row_cosines
from pipeline.config import HighPrecision, NumericType
from pipeline.contracts import OnnxModel
from pipeline.engines.onnxruntime import OnnxRuntimeEncoder
from pipeline.graph import load_graph, save_graph
from pipeline.half import cast_to_half, refuse_subgraphs
from pipeline.quant.qdq import to_unsigned_activations
from pipeline.tokens import TokenBatch, Tokenizer, TokenRow


def write_forms(
    graph: ir.Model,
    model: OnnxModel,
    high_precision: HighPrecision,
    wide: Sequence[str],
    out_dir: Path,
) -> tuple[OnnxModel, OnnxModel]:
    """Write the Q/DQ graph as ONNX Runtime wants it and as TensorRT does; the scales are the same.

    ``wide`` names the tensors that fp16 cannot hold. Returns uint8 activations in fp32, and int8
    activations in ``high_precision``.
    """
    kind, path = NumericType.int8, out_dir / "model.signed.onnx"
    signed = save_graph(graph, path, precision=kind, source_sha256=model.sha256)
    if high_precision is HighPrecision.fp16:
        half = load_graph(signed)
        refuse_subgraphs(half)
        cast_to_half(half, wide)
        signed = save_graph(half, path, precision=kind, source_sha256=model.sha256)
    to_unsigned_activations(graph.graph)
    unsigned = save_graph(graph, out_dir / "model.onnx", precision=kind, source_sha256=model.sha256)
    return unsigned, signed


def probe(tokenizer: Tokenizer, rows: Sequence[TokenRow]) -> TokenBatch:
    """Return sixteen of the rows, short and long, as one batch to compare graphs on."""
    return tokenizer.pad(rows[:: max(1, len(rows) // 16)][:16])


def worst_cosine(a: OnnxModel, b: OnnxModel, batch: TokenBatch) -> float:
    """Return the lowest cosine between two graphs' embeddings of a batch."""
    first, second = (OnnxRuntimeEncoder(model.path).encode(batch) for model in (a, b))
    return float(row_cosines(first, second).min())
