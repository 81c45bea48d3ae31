"""Compare what two graphs compute, on a few texts."""

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from pipeline.config import NumericType
from pipeline.contracts import OnnxModel
from pipeline.engines.onnxruntime import OnnxRuntimeEncoder
from pipeline.graph.emulated import emulate_bf16, emulate_fp8
from pipeline.graph.files import load_graph
from pipeline.graph.observe import run_observed
from pipeline.text.tokens import TokenBatch, Tokenizer, TokenRow
from pipeline.vectors import FloatArray, row_cosines

_EMULATIONS = {NumericType.bf16: emulate_bf16, NumericType.fp8: emulate_fp8}

_LONG = 0.95
"""The longest row of a probe has so many of the others below it: one far longer pads all."""


def probe(tokenizer: Tokenizer, rows: Sequence[TokenRow]) -> TokenBatch:
    """Return up to eight of the rows, short and long, as one batch to compare graphs on."""
    by_length = sorted(rows, key=lambda row: len(row.ids))
    last = round(_LONG * (len(rows) - 1))
    return tokenizer.pad([by_length[i] for i in sorted({last * n // 7 for n in range(8)})])


def worst_cosine(a: OnnxModel, b: OnnxModel, batch: TokenBatch) -> float:
    """Return the lowest cosine between two graphs' embeddings of a batch."""
    first, second = (_embed(model, batch) for model in (a, b))
    return float(row_cosines(first, second).min())


def _embed(model: OnnxModel, batch: TokenBatch) -> FloatArray:
    emulate = _EMULATIONS.get(model.precision)
    if emulate is None:
        return OnnxRuntimeEncoder(model.path).encode(batch)
    graph = load_graph(model)
    emulate(graph)
    return embed_in_pieces(graph, batch)


def embed_in_pieces(graph: ir.Model, batch: TokenBatch) -> FloatArray:
    """Return the embeddings of a batch by a graph in memory, without ever opening all of it."""
    return embed_batches(graph, [batch])


def embed_batches(graph: ir.Model, batches: Sequence[TokenBatch]) -> FloatArray:
    """Return the embeddings of some batches, in their order, as ``embed_in_pieces``."""
    parts = run_observed(graph, graph.graph.outputs, batches)
    return np.concatenate([value for values in parts for value in values.values()])
