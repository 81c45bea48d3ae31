"""Compare what two graphs compute, on a few texts."""

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from pipeline.contracts import OnnxModel
from pipeline.engines.onnxruntime import OnnxRuntimeEncoder
from pipeline.graph.observe import run_observed
from pipeline.text.tokens import TokenBatch, Tokenizer, TokenRow
from pipeline.vectors import FloatArray, row_cosines


def probe(tokenizer: Tokenizer, rows: Sequence[TokenRow]) -> TokenBatch:
    """Return sixteen of the rows, short and long, as one batch to compare graphs on."""
    return tokenizer.pad(rows[:: max(1, len(rows) // 16)][:16])


def worst_cosine(a: OnnxModel, b: OnnxModel, batch: TokenBatch) -> float:
    """Return the lowest cosine between two graphs' embeddings of a batch."""
    first, second = (OnnxRuntimeEncoder(model.path).encode(batch) for model in (a, b))
    return float(row_cosines(first, second).min())


def embed_in_pieces(graph: ir.Model, batch: TokenBatch) -> FloatArray:
    """Return the embeddings of a batch by a graph in memory, without ever opening all of it."""
    parts = run_observed(graph, graph.graph.outputs, [batch])
    return np.concatenate([value for values in parts for value in values.values()])
