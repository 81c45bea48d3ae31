"""The type of every tensor of a graph, by ONNX's own inference."""

from collections.abc import Mapping

import onnx

from pipeline.contracts import OnnxModel


def infer_types(model: OnnxModel) -> tuple[onnx.GraphProto, Mapping[str, int]]:
    """Return the graph and each tensor's type, inferred from the inputs and initializers only."""
    proto = onnx.load(model.path)
    del proto.graph.value_info[:]
    graph = onnx.shape_inference.infer_shapes(proto, check_type=True, strict_mode=True).graph
    values = [*graph.value_info, *graph.input, *graph.output]
    types = {value.name: value.type.tensor_type.elem_type for value in values}
    return graph, types | {tensor.name: tensor.data_type for tensor in graph.initializer}
