"""Cast an fp32 graph to fp16."""

import logging
from collections.abc import Sequence
from pathlib import Path

from pipeline.config import NumericType
from pipeline.contracts import OnnxModel, SourceModel
from pipeline.errors import CastError
from pipeline.graph.files import load_graph, save_graph
from pipeline.graph.half import cast_to_half, find_wide_tensors, refuse_subgraphs

log = logging.getLogger(__name__)


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
    if model.precision is not NumericType.fp32:
        raise CastError(f"{model.path}: is {model.precision}, expected fp32")
    out_dir.mkdir(parents=True)
    graph = load_graph(model)
    refuse_subgraphs(graph)
    wide = find_wide_tensors(graph, source, texts, keep)
    if wide:
        log.info(
            "%d tensors are too large for fp16, or named, and stay in fp32: %s", len(wide), wide[:5]
        )
    log.info("cast %d nodes to fp16, kept %d float nodes in fp32", *cast_to_half(graph, wide))
    return save_graph(
        graph, out_dir / "model.onnx", precision=NumericType.fp16, source_sha256=model.sha256
    )
