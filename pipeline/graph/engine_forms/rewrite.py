"""Every rewrite for engines, in order."""

import onnx_ir as ir

from pipeline.graph.engine_forms.drop_expands import drop_expands
from pipeline.graph.engine_forms.drop_token_count import drop_token_count
from pipeline.graph.engine_forms.joined_by_head import order_joined_by_head
from pipeline.graph.engine_forms.pack_projections import pack_projections
from pipeline.graph.engine_forms.sequence_first import sequence_first
from pipeline.graph.files import prune
from pipeline.graph.fuse_pooling import drop_expanded_mask


def rewrite_for_engines(model: ir.Model) -> dict[str, int]:
    """Rewrite a graph in place; return how often each rewrite was made, by its name."""
    graph = model.graph
    # The mask's Expand goes first: the count of tokens is one a row only behind that.
    made = {
        rewrite.__name__: rewrite(graph)
        for rewrite in (drop_expanded_mask, drop_expands, drop_token_count, order_joined_by_head)
    }
    packed = pack_projections(graph)
    prune(model)  # what was packed is read no longer: who reads a tensor counts from here on
    made["pack_projections"] = len(packed)
    made["sequence_first"] = sequence_first(graph, packed)
    prune(model)
    return made
