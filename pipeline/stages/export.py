"""Export the whole Sentence Transformer, pooling and all, as one ONNX graph that is checked."""

import gc
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from pipeline.config import Device, Exporter, NumericType
from pipeline.contracts import OnnxModel, SourceModel
from pipeline.engines.onnxruntime import OnnxRuntimeEncoder
from pipeline.engines.torch import TorchEncoder, encoder_name
from pipeline.errors import ExportError
from pipeline.graph.contract import meet_contract
from pipeline.graph.exporters import trace
from pipeline.graph.files import save_graph
from pipeline.text.source_text import open_tokenizer, tokenize
from pipeline.text.tokens import TokenBatch, TokenRow
from pipeline.vectors import row_cosines

log = logging.getLogger(__name__)

MIN_COSINE = 0.99999

MIN_PADDED_COSINE = 0.999
"""Of a text with itself in PyTorch; where padding is read it is far lower, rounding far higher."""


def export(
    source: SourceModel, exporter: Exporter, texts: Sequence[str], out_dir: Path
) -> OnnxModel:
    """Return the fp32 graph of every module of the model, checked against PyTorch.

    ``texts`` are only used for the check: real text at varied lengths, batch sizes and paddings
    up to the model's max length.

    Raises:
        ExportError: the exporter refused a module, or the graph's embeddings differ.
    """
    out_dir.mkdir(parents=True)
    model = _trace(source, exporter, out_dir)
    gc.collect()  # the traced model refers to itself: with its weights it would stay for the check
    _check(model, source, texts)
    return model


def _trace(source: SourceModel, exporter: Exporter, out_dir: Path) -> OnnxModel:
    graph = trace(source, exporter)
    meet_contract(graph, source)
    return save_graph(
        graph, out_dir / "model.onnx", precision=NumericType.fp32, source_sha256=source.sha256
    )


def _check(model: OnnxModel, source: SourceModel, texts: Sequence[str]) -> None:
    """Compare graph and PyTorch on batches that vary in length, size and padding.

    Raises:
        ExportError: a cosine below ``MIN_COSINE``, another norm, or a value that is not finite.
    """
    reference = TorchEncoder(source, device=Device.cpu)
    graph = OnnxRuntimeEncoder(model.path)
    _check_padding(reference, source, texts)
    worst, seen = 1.0, 0
    for batch in _check_batches(source, texts):
        expected, observed = reference.encode(batch), graph.encode(batch)
        if not np.isfinite(expected).all():
            raise ExportError(
                f"{source.location}: PyTorch itself returns NaN or infinite embeddings"
            )
        cosines = row_cosines(expected, observed)
        close = np.allclose(expected, observed, rtol=1e-3, atol=1e-3 * np.abs(expected).max())
        worst, seen = min(worst, float(cosines.min())), seen + len(cosines)
        if not close or not cosines.min() >= MIN_COSINE:
            rows, width = batch.input_ids.shape
            raise ExportError(
                f"{source.location}: the exported graph disagrees with PyTorch on a batch of "
                f"{rows} × {width} tokens: cosine {cosines.min():.6f}, expected at least "
                f"{MIN_COSINE}; "
                "try the other exporter (exporter=torch | optimum)"
            )
    log.info("export agrees with PyTorch: worst cosine %.7f of %d rows", worst, seen)


def _check_padding(reference: TorchEncoder, source: SourceModel, texts: Sequence[str]) -> None:
    """Check that the model itself makes the same vector of a text with padding and without.

    Raises:
        ExportError: another one, so a vector would depend on what its text is batched with.
    """
    tokenizer = open_tokenizer(source)
    rows = tokenize(source, tokenizer, ["a first text", *texts[:16]])[:4]
    alone, padded = (
        np.concatenate([reference.encode(tokenizer.pad([row], length=n)) for row in rows])
        for n in (None, source.max_length)  # one at a time: together they are the largest batch
    )
    cosine = float(row_cosines(alone, padded).min())
    if cosine < MIN_PADDED_COSINE:
        raise ExportError(
            f"{source.location}: its {encoder_name(reference.model)} makes another vector of a "
            f"text padded to {source.max_length} tokens than of the text alone (cosine "
            f"{cosine:.6f}, expected at least {MIN_PADDED_COSINE}), in PyTorch too: a vector would "
            "depend on what its text is batched with; serve it with Sentence Transformers, text by "
            "text"
        )


def _check_batches(source: SourceModel, texts: Sequence[str]) -> Iterator[TokenBatch]:
    """Yield batches: the empty text, one alone, mixed lengths, extra padding, max length."""
    tokenizer = open_tokenizer(source)
    rows = tokenize(source, tokenizer, ["", *texts[:48]])
    full = tokenizer.rows([" ".join(texts)])
    rows_at = sorted(rows, key=lambda row: len(row.ids))
    middle: TokenRow = rows_at[len(rows_at) // 2]
    yield tokenizer.pad(rows[:1])
    yield tokenizer.pad([middle])
    yield tokenizer.pad([middle], length=source.max_length)
    yield tokenizer.pad(rows_at[:3] + rows_at[-2:])
    yield tokenizer.pad(rows[1:33])
    yield tokenizer.pad([*full, rows[0], middle])
    yield tokenizer.pad(full)
