"""Every rewrite for engines, in order."""

import onnx_ir as ir

from pipeline.graph.engine_forms.drop_expands import drop_expands
from pipeline.graph.engine_forms.drop_token_count import drop_token_count
from pipeline.graph.engine_forms.pack_projections import pack_projections
from pipeline.graph.files import prune
from pipeline.graph.fuse_pooling import drop_expanded_mask

PASSES = (drop_expanded_mask, drop_expands, drop_token_count, pack_projections)
"""The mask's Expand goes first: the count of tokens is one a row only behind that."""


def rewrite_for_engines(model: ir.Model) -> dict[str, int]:
    """Rewrite a graph in place; return how often each rewrite was made, by its name."""
    made = {rewrite.__name__: rewrite(model.graph) for rewrite in PASSES}
    prune(model)
    return made
