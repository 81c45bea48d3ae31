"""Rewrite ``model.onnx`` as CPUs run it fast, the engines' graph as compilers fuse it."""

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import onnx_ir as ir

from pipeline.config import NumericType
from pipeline.contracts import Graphs, OnnxModel, SourceModel
from pipeline.errors import OptimizeError
from pipeline.graph.engine_forms.rewrite import rewrite_for_engines
from pipeline.graph.equivalence import probe, worst_cosine
from pipeline.graph.files import load_graph, prune, save_graph
from pipeline.graph.fuse_attention import fuse_attention
from pipeline.graph.fuse_kernels import keep_apart
from pipeline.graph.fuse_pooling import drop_expanded_mask
from pipeline.graph.half_types import HALVES
from pipeline.text.source_text import open_tokenizer, tokenize
from pipeline.text.tokens import TokenBatch

log = logging.getLogger(__name__)

LEAST_COSINE = {
    NumericType.fp32: 0.99999,
    NumericType.fp16: 0.9999,
    NumericType.bf16: 0.999,
    NumericType.fp8: 0.99,
    NumericType.int8: 0.995,
}
"""What a rewritten graph must keep. An addition in another order rounds to another number of fp16
or bf16, and in int8 and fp8 moves values near the middle of two numbers to the other one."""


def optimize(graphs: Graphs, source: SourceModel, texts: Sequence[str], out_dir: Path) -> Graphs:
    """Return graphs that compute the same: ``portable`` faster on CPUs, ``buildable`` in engines.

    CPUs compute fp16 and bf16 in fp32 anyway: there ``portable`` stays. A graph in which nothing is
    to be rewritten is returned as it is.

    Raises:
        OptimizeError: a rewritten graph gives other vectors on sixteen of ``texts``.
    """
    out_dir.mkdir(parents=True)
    tokenizer = open_tokenizer(source)
    batch = probe(tokenizer, tokenize(source, tokenizer, texts))
    portable, buildable = graphs.portable, graphs.buildable
    fused = None if portable.precision in HALVES else _fuse_for_cpus(portable, source)
    if fused is not None:
        # The lineage names what ships: the graph as it was is the engines' too, or goes no further.
        origin = portable.sha256 if buildable == portable else portable.source_sha256
        portable = _save(fused, portable, origin, out_dir / "model.onnx", source, batch)
    graph = load_graph(buildable)
    made = rewrite_for_engines(graph)
    log.info("for engines: %s", ", ".join(f"{name} {count}" for name, count in made.items()))
    if any(made.values()):
        before = graphs.portable
        origin = before.sha256 if before == buildable else buildable.source_sha256
        buildable = _save(graph, buildable, origin, out_dir / "engine.onnx", source, batch)
    return replace(graphs, portable=portable, buildable=buildable)


def _fuse_for_cpus(model: OnnxModel, source: SourceModel) -> ir.Model | None:
    """Return ``model.onnx`` fused for CPUs, or None where nothing is to be fused."""
    graph = load_graph(model)
    apart = keep_apart(graph.graph)
    masks = drop_expanded_mask(graph.graph)
    fused, blocks = fuse_attention(graph, source.max_length)
    log.info("fused %d of %d attention blocks, kept %d kernels apart", fused, blocks, apart)
    if not apart + masks + fused:
        return None
    prune(graph)
    return graph


def _save(
    graph: ir.Model,
    model: OnnxModel,
    origin: str,
    path: Path,
    source: SourceModel,
    batch: TokenBatch,
) -> OnnxModel:
    """Write a rewritten graph and compare it with the model that it was.

    Raises:
        OptimizeError: it gives other vectors.
    """
    saved = save_graph(graph, path, precision=model.precision, source_sha256=origin)
    worst, least = worst_cosine(model, saved, batch), LEAST_COSINE[model.precision]
    log.info("%s computes what it did: worst cosine %.7f", path.name, worst)
    if not worst >= least:
        raise OptimizeError(
            f"{source.name}: a rewrite changed what {path.name} computes (cosine {worst:.6f}, "
            f"expected at least {least}); set optimize=false"
        )
    return saved
