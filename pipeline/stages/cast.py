"""Cast an fp32 graph to fp16 or bf16."""

import logging
from collections.abc import Sequence
from pathlib import Path

import onnx_ir as ir

from pipeline.config import NumericType
from pipeline.contracts import Graphs, OnnxModel, SourceModel
from pipeline.errors import CastError
from pipeline.graph.emulated import emulate_bf16
from pipeline.graph.equivalence import embed_batches
from pipeline.graph.files import load_graph, save_graph
from pipeline.graph.half import (
    cast_to_half,
    find_named_tensors,
    find_wide_tensors,
    refuse_subgraphs,
)
from pipeline.graph.half_types import BF16, BF16_EXACT_SUMS
from pipeline.graph.observe import unpadded_batches
from pipeline.text.datasets import spread
from pipeline.text.source_text import open_tokenizer, tokenize
from pipeline.vectors import row_cosines

log = logging.getLogger(__name__)

ENOUGH_COSINE = 0.9999
"""Mean on calibration text. Below it the residual stream stays in fp32: a sum over all layers,
where each rounding stays in what every later layer reads. That costs a fifth more of traffic."""

_PROBED_TEXTS = 64
_PROBED_TOKENS = 512


def cast(
    model: OnnxModel,
    source: SourceModel,
    texts: Sequence[str],
    out_dir: Path,
    *,
    keep: Sequence[str] = (),
) -> OnnxModel:
    """Return the fp16 form of an fp32 graph; inputs stay int64 and the output fp32.

    ``texts`` are run through the fp32 graph to see which tensors come near fp16's largest number.
    What reads or makes one of them, or a tensor that a pattern in ``keep`` names, stays in fp32.

    Raises:
        CastError: the graph is not fp32, holds a subgraph that cannot be typed node by node, or has
            no tensor that a pattern names.
    """
    graph = _open(model, out_dir)
    wide = find_wide_tensors(graph, source, texts, keep)
    if wide:
        log.info(
            "%d tensors are too large for fp16, or named, and stay in fp32: %s", len(wide), wide[:5]
        )
    log.info("cast %d nodes to fp16, kept %d float nodes in fp32", *cast_to_half(graph, wide))
    return _save(graph, out_dir / "model.onnx", NumericType.fp16, model)


def cast_bf16(
    model: OnnxModel,
    source: SourceModel,
    texts: Sequence[str],
    out_dir: Path,
    *,
    keep: Sequence[str] = (),
) -> Graphs:
    """Return the bf16 form of an fp32 graph for engines, and one that rounds as it does in fp32.

    bf16 has fp32's range, so nothing overflows; a few of ``texts`` tell whether the residual
    stream needs fp32's fraction. ONNX Runtime has no bf16 kernels for CPUs: ``portable`` computes
    in fp32 and rounds what each node gives to bf16.

    Raises:
        CastError: as ``cast``.
    """
    graph = _open(model, out_dir)
    named = sorted(find_named_tensors(graph, source, keep))
    tokenizer = open_tokenizer(source)
    rows = tokenize(source, tokenizer, spread(texts, _PROBED_TEXTS))
    batches = list(unpadded_batches(tokenizer, rows, max_tokens=_PROBED_TOKENS))
    exact = embed_batches(graph, batches)
    kind, path = NumericType.bf16, out_dir / "model.bf16.onnx"
    for half, words in ((BF16, "bf16"), (BF16_EXACT_SUMS, "bf16, the residual stream in fp32")):
        graph = load_graph(model)
        narrow, full = cast_to_half(graph, named, half=half)
        buildable = _save(graph, path, kind, model)
        rounding = emulate_bf16(graph)
        mean = float(row_cosines(exact, embed_batches(graph, batches)).mean())
        log.info("cast %d nodes to %s, kept %d float nodes in fp32", narrow, words, full)
        log.info("mean cosine %.6f on calibration text, rounded in %d places", mean, rounding)
        if mean >= ENOUGH_COSINE:
            break
    portable = _save(graph, out_dir / "model.onnx", kind, model)
    return Graphs(portable=portable, buildable=buildable)


def _open(model: OnnxModel, out_dir: Path) -> ir.Model:
    if model.precision is not NumericType.fp32:
        raise CastError(f"{model.path}: is {model.precision}, expected fp32")
    out_dir.mkdir(parents=True)
    graph = load_graph(model)
    refuse_subgraphs(graph)
    return graph


def _save(graph: ir.Model, path: Path, kind: NumericType, model: OnnxModel) -> OnnxModel:
    return save_graph(graph, path, precision=kind, source_sha256=model.sha256)
