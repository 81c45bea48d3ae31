"""Run a graph over text and yield what its inner tensors hold."""

from collections.abc import Iterable, Iterator, Mapping, Sequence

import onnx_ir as ir

from pipeline.graph.pieces import Walk, cheap_cuts, cut
from pipeline.text.tokens import TokenBatch, Tokenizer, TokenRow, by_exact_length
from pipeline.vectors import FloatArray

MAX_TOKENS = 2048
"""Tokens a calibration batch holds at most; bounds memory at any calibration size."""


def unpadded_batches(
    tokenizer: Tokenizer, rows: Sequence[TokenRow], *, max_tokens: int = MAX_TOKENS
) -> Iterator[TokenBatch]:
    """Yield batches without a single padding token, of ``max_tokens`` or one row."""
    for indices in by_exact_length(rows, max_tokens=max_tokens):
        yield tokenizer.pad([rows[i] for i in indices])


def run_observed(
    model: ir.Model, tensors: Sequence[ir.Value], batches: Iterable[TokenBatch]
) -> Iterator[Mapping[str, FloatArray]]:
    """Run what the tensors need in ONNX Runtime, a piece at a time, and yield them by name.

    A mapping holds what one piece gives of one batch.
    """
    walk = Walk(cut(model, cheap_cuts(model.graph), tensors), list(batches))
    while len(walk):
        for _, values in walk.step():
            if values:
                yield values
