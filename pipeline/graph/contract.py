"""Bring an exported graph to the graph contract (``docs/adr/0002-graph-contract.md``)."""

import numpy as np
import onnx_ir as ir

from pipeline.contracts import GRAPH_INPUTS, GRAPH_OUTPUT, SourceModel
from pipeline.errors import ExportError
from pipeline.graph.files import add_initializer, prune
from pipeline.graph.gemms import canonicalize_gemms


def meet_contract(graph: ir.Model, source: SourceModel) -> None:
    """Give the graph the contract's names, shapes and types; drop what the model does not use.

    Raises:
        ExportError: an input or output is missing, or of another type.
    """
    outputs = {value.name: value for value in graph.graph.outputs}
    if list(outputs) != [GRAPH_OUTPUT]:
        raise ExportError(
            f"{source.location}: graph outputs {list(outputs)}, expected [{GRAPH_OUTPUT!r}]"
        )
    # Shapes may be read off any input; reading them off input_ids frees an unused input to go.
    ids = next((value for value in graph.graph.inputs if value.name == GRAPH_INPUTS[0]), None)
    for value in list(graph.graph.inputs):
        if value.name not in GRAPH_INPUTS or value.dtype is not ir.DataType.INT64:
            raise ExportError(
                f"{source.location}: graph input {value.name} is {value.dtype}, "
                f"expected int64 among {', '.join(GRAPH_INPUTS)}"
            )
        for node, index in list(value.uses()):
            if node.op_type == "Shape" and ids is not None and value is not ids:
                node.replace_input_with(index, ids)
        value.shape = ir.Shape(["batch", "sequence"])
        value.metadata_props.clear()
    if ids is None:
        raise ExportError(f"{source.location}: the graph has no input {GRAPH_INPUTS[0]}")
    _truncate(graph.graph, source.dimension)
    canonicalize_gemms(graph.graph)
    prune(graph)
    for value in list(graph.graph.inputs):
        if not value.uses():
            graph.graph.inputs.remove(value)
    output = graph.graph.outputs[0]
    output.shape, output.dtype = ir.Shape(["batch", source.dimension]), ir.DataType.FLOAT
    graph.graph.name = source.name
    graph.producer_name = "sentence-transformer-pipeline"
    graph.producer_version = None
    graph.doc_string = None
    for node in graph.graph:
        node.metadata_props.clear()
        node.doc_string = None
    for value in graph.graph.initializers.values():
        value.metadata_props.clear()


def _truncate(graph: ir.Graph, dimension: int) -> None:
    """Keep the first channels of the embedding where the graph makes more (Matryoshka).

    As Sentence Transformers does: behind the last module, without normalizing again.
    """
    full = graph.outputs[0]
    if full.shape is None or full.shape[-1] == dimension:
        return
    bounds = [
        add_initializer(graph, f"truncate.{name}", np.array([value], np.int64))
        for name, value in (("start", 0), ("end", dimension), ("axis", 1))
    ]
    node = ir.node("Slice", [full, *bounds], name="truncate")
    cut = node.outputs[0]
    cut.type = full.type
    full.name, cut.name = f"{GRAPH_OUTPUT}.full", GRAPH_OUTPUT
    graph.append(node)
    graph.outputs[0] = cut
