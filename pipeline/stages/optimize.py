"""Rewrite ``model.onnx`` into the form that CPUs run fast."""

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from pipeline.config import NumericType
from pipeline.contracts import Graphs, SourceModel
from pipeline.errors import OptimizeError
from pipeline.graph.equivalence import probe, worst_cosine
from pipeline.graph.files import load_graph, prune, save_graph
from pipeline.graph.fuse_attention import fuse_attention
from pipeline.graph.fuse_kernels import keep_apart
from pipeline.graph.fuse_pooling import drop_expanded_mask
from pipeline.text.source_text import open_tokenizer, tokenize

log = logging.getLogger(__name__)

LEAST_COSINE = {NumericType.fp32: 0.99999, NumericType.int8: 0.995}
"""What the rewritten graph must keep. In int8 an addition in another order moves values near the
middle of two steps to the other one, so the two are not equal to the last digit."""


def optimize(graphs: Graphs, source: SourceModel, texts: Sequence[str], out_dir: Path) -> Graphs:
    """Return the graphs with a ``portable`` one that computes the same, faster on CPUs.

    fp16 stays as it is: CPUs compute it in fp32 anyway. Where nothing is to be rewritten, the
    graphs are returned as they are.

    Raises:
        OptimizeError: the rewritten graph gives other vectors on sixteen of ``texts``.
    """
    model = graphs.portable
    if model.precision not in LEAST_COSINE:
        return graphs
    out_dir.mkdir(parents=True)
    graph = load_graph(model)
    apart = keep_apart(graph.graph)
    masks = drop_expanded_mask(graph.graph)
    fused, blocks = fuse_attention(graph, source.max_length)
    log.info("fused %d of %d attention blocks, kept %d kernels apart", fused, blocks, apart)
    if not apart + masks + fused:
        return graphs
    prune(graph)
    # The lineage names what ships: the graph as it was is the engines' too, or goes no further.
    origin = model.sha256 if graphs.buildable == model else model.source_sha256
    path = out_dir / "model.onnx"
    faster = save_graph(graph, path, precision=model.precision, source_sha256=origin)
    tokenizer = open_tokenizer(source)
    batch = probe(tokenizer, tokenize(source, tokenizer, texts))
    worst, least = worst_cosine(model, faster, batch), LEAST_COSINE[model.precision]
    log.info("model.onnx computes what it did: worst cosine %.7f", worst)
    if not worst >= least:
        raise OptimizeError(
            f"{source.name}: fusing changed what model.onnx computes (cosine {worst:.6f}, expected "
            f"at least {least}); set optimize=false"
        )
    return replace(graphs, portable=faster)
