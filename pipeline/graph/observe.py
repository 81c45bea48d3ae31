"""Run a graph over text and yield what its inner tensors hold."""

import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import onnx_ir as ir

from pipeline.engines.onnxruntime import open_session
from pipeline.graph.files import prune
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
    model: ir.Model,
    tensors: Sequence[ir.Value],
    batches: Iterable[TokenBatch],
    *,
    only: bool = False,
) -> Iterator[Mapping[str, FloatArray]]:
    """Run the graph in ONNX Runtime and yield the tensors' values by name, batch after batch.

    With ``only``, nothing is computed that the tensors do not need.
    """
    names = [tensor.name or "" for tensor in tensors]
    outputs = list(model.graph.outputs)
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "observed.onnx"
        model.graph.outputs.extend(t for t in tensors if t not in outputs)
        try:
            ir.save(model, path)
        finally:
            while len(model.graph.outputs) > len(outputs):
                model.graph.outputs.pop()
        if only:
            _cut(path, names)
        session = open_session(path)
        inputs = [i.name for i in session.get_inputs()]
        for batch in batches:
            yield dict(zip(names, session.run(names, batch.feed(inputs)), strict=True))


def _cut(path: Path, names: Sequence[str]) -> None:
    """Leave in a graph's file what the named tensors need: ONNX Runtime computes all there is."""
    model = ir.load(path)
    kept = [value for value in model.graph.outputs if value.name in names]
    model.graph.outputs.clear()
    model.graph.outputs.extend(kept)
    prune(model)
    ir.save(model, path)
