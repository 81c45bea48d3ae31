"""fuse: an fp32 graph to the fp16 one that ONNX Runtime runs on CUDA."""

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from pipeline.config import NumericType
from pipeline.contracts import OnnxModel, SourceModel
from pipeline.engines.onnxruntime import OnnxRuntimeEncoder
from pipeline.errors import OptimizeError
from pipeline.graph.cuda.activations import fuse_activations
from pipeline.graph.cuda.argmax import replace_argmax
from pipeline.graph.cuda.attention import pack_attention
from pipeline.graph.cuda.broadcasts import repeat_shared_sides
from pipeline.graph.cuda.host_numbers import make_on_device
from pipeline.graph.cuda.masks import find_masks
from pipeline.graph.cuda.norms import fuse_norms
from pipeline.graph.cuda.rms import fuse_rms
from pipeline.graph.cuda.scores import fuse_scores
from pipeline.graph.files import load_graph, prune, save_graph
from pipeline.graph.fuse_attention import fuse_attention
from pipeline.graph.fuse_pooling import drop_expanded_mask
from pipeline.graph.half import cast_to_half, find_wide_tensors, refuse_subgraphs
from pipeline.text.source_text import tokenize
from pipeline.text.tokens import TokenBatch, Tokenizer
from pipeline.vectors import row_cosines

log = logging.getLogger(__name__)

LEAST_FUSED = 0.99999
LEAST_CAST = 0.999
"""What the rewrites may change, computed in fp32, and what rounding to fp16 may."""

PROBED = 16
"""Texts that the graphs are compared on, short and long."""


def fuse(
    model: OnnxModel,
    source: SourceModel,
    texts: Sequence[str],
    out_dir: Path,
    *,
    keep: Sequence[str] = (),
) -> OnnxModel:
    """Return a graph of the same function in the operators that ONNX Runtime's CUDA kernels fuse.

    It is compared with the fp32 graph twice, on texts padded into one batch and alone: in fp32
    before it is cast, where only a wrong rewrite makes a difference, and in fp16. What text drives
    beyond fp16's range, and what a pattern in ``keep`` names, stays in fp32.

    Raises:
        OptimizeError: a rewrite changed what the graph computes.
        CastError: as the cast stage.
    """
    out_dir.mkdir(parents=True)
    graph = load_graph(model)
    refuse_subgraphs(graph)
    tokenizer = Tokenizer(source.assets, max_length=source.max_length)
    drop_expanded_mask(graph.graph)
    replace_argmax(graph)
    known, blocks = fuse_attention(graph, source.max_length)
    packed = pack_attention(graph, right_padded=tokenizer.padding_side == "right")
    prune(graph)
    others = fuse_scores(graph)
    roots = fuse_rms(graph)
    prune(graph)  # or what is replaced still counts as a user
    norms, activations = fuse_norms(graph), fuse_activations(graph)
    log.info(
        "CUDA: fused %d of %d attention blocks, %d with their projections; %d norms by the root of "
        "a mean; %d norms with what is added before them, %d biases with their activation",
        known + others,
        blocks,
        packed,
        roots,
        norms,
        activations,
    )
    prune(graph)
    repeat_shared_sides(graph)
    make_on_device(graph)
    batches = _probe(source, tokenizer, texts)
    exact = save_graph(
        graph, out_dir / "fp32.onnx", precision=NumericType.fp32, source_sha256=model.sha256
    )
    expected = [OnnxRuntimeEncoder(model.path).encode(batch) for batch in batches]
    _compare(source.name, exact, batches, expected, LEAST_FUSED)
    for file in out_dir.glob("fp32.onnx*"):
        file.unlink()
    wide = find_wide_tensors(graph, source, texts, keep, ignore=find_masks(graph))
    half, full = cast_to_half(graph, wide, norms_in_half=True)
    log.info("CUDA: cast %d nodes to fp16, kept %d float nodes in fp32", half, full)
    path = out_dir / "cuda" / "model.onnx"
    path.parent.mkdir()
    cast = save_graph(graph, path, precision=NumericType.fp16, source_sha256=model.sha256)
    _compare(source.name, cast, batches, expected, LEAST_CAST)
    return cast


def _probe(source: SourceModel, tokenizer: Tokenizer, texts: Sequence[str]) -> list[TokenBatch]:
    """Return some of the texts as one padded batch, and the shortest and the longest alone."""
    rows = tokenize(source, tokenizer, texts[:: max(1, len(texts) // PROBED)][:PROBED])
    rows.sort(key=lambda row: len(row.ids))
    return [tokenizer.pad(some) for some in (rows, rows[:1], rows[-1:])]


def _compare(
    name: str,
    model: OnnxModel,
    batches: Sequence[TokenBatch],
    expected: Sequence[np.ndarray],
    least: float,
) -> None:
    engine = OnnxRuntimeEncoder(model.path)
    worst = min(
        float(row_cosines(vectors, engine.encode(batch)).min())
        for batch, vectors in zip(batches, expected, strict=True)
    )
    log.info("CUDA: the graph computes what it did: worst cosine %.7f", worst)
    if not worst >= least:
        raise OptimizeError(
            f"{name}: fusing for CUDA changed what the {model.precision.value} graph computes "
            f"(cosine {worst:.6f}, expected at least {least}); set optimize=false"
        )
