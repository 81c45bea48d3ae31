"""Tell what a kernel is for, from the builder's words and the ONNX nodes it came from."""

from pipeline.engines.layers.graph import GraphFacts
from pipeline.engines.layers.raw import RawLayer
from pipeline.engines.layers.records import Kind

NO_KERNELS = {
    "signal",
    "wait",
    "shape_call",
    "shape",
    "constant",
    "assertion",
    "shapehosttodevice",
    "shapedevicetohost",
}
"""Layer types that start nothing on the device: waiting streams, shapes on the host."""

_GEMM_TYPES = {
    "gemm",
    "matrixmultiply",
    "matrix_multiply",
    "caskgemmmatrixmultiply",
    "fullyconnected",
}
_MOVE_TYPES = {"copy", "reformat", "shuffle", "noop", "reshape", "transpose"}
_MOVES = {"Move", "Resh", "Tran", "Repl", "Conc", "Slic", "Copy"}
_CONVERTS = {"Cast", "Roun", "Min", "Max", "Mul", "Div", "Resh"}
_NOT_ELEMENTWISE = {"Sum", "Maxr", "Minr", "Prod", "Iota", "Gath", "Scat", "Conc", "Argm", "Mean"}
_ONNX_MOVES = {
    "Concat", "Expand", "Flatten", "Identity", "Reshape", "Slice", "Split", "Squeeze", "Transpose",
    "Unsqueeze",
}  # fmt: skip
_ONNX_CONVERTS = {"Cast", "QuantizeLinear", "DequantizeLinear"}


def is_kernel(layer: RawLayer) -> bool:
    """Whether a layer is something that runs on the device, not on shapes before it."""
    return layer.layer_type.lower() not in NO_KERNELS and not _only_shapes(layer)


def _only_shapes(layer: RawLayer) -> bool:
    tensors = (*layer.inputs, *layer.outputs)
    return bool(tensors) and all(
        tensor.type in ("int32", "int64") and tensor.dims in ((), (1,), (2,)) for tensor in tensors
    )


def classify(layer: RawLayer, graph: GraphFacts) -> Kind:
    """Return what a kernel is for."""
    words = set(layer.operators)
    if _is_attention(layer, graph):
        return Kind.attention
    if is_gemm(layer):
        return Kind.gemm
    if layer.layer_type.lower() in _MOVE_TYPES:
        return _convert_or_move(layer)
    if "Mean" in words:
        return Kind.normalization
    if not words:
        return _by_nodes(layer, graph)
    if words <= _MOVES:
        return _convert_or_move(layer)
    if words <= _CONVERTS and words & {"Cast", "Roun"} and _only_converts(layer, graph):
        return Kind.conversion
    return Kind.other if words & _NOT_ELEMENTWISE else Kind.elementwise


def is_gemm(layer: RawLayer) -> bool:
    """Whether a kernel is a matrix product, an attention's own or a linear one."""
    return layer.layer_type.lower() in _GEMM_TYPES or "Fc" in layer.operators


def _is_attention(layer: RawLayer, graph: GraphFacts) -> bool:
    """Whether a kernel computes scores, softmax and the sum of values in one."""
    nodes = set(layer.nodes)
    for mark, products in graph.products.items():
        if mark in nodes and products <= nodes:
            return True
    return "mha" in layer.name.lower() and not graph.products


def _only_converts(layer: RawLayer, graph: GraphFacts) -> bool:
    known = [graph.nodes[name].operator for name in layer.nodes if name in graph.nodes]
    return all(operator in _ONNX_CONVERTS | _ONNX_MOVES for operator in known)


def _convert_or_move(layer: RawLayer) -> Kind:
    read = {tensor.type for tensor in layer.inputs}
    return Kind.move if {tensor.type for tensor in layer.outputs} <= read else Kind.conversion


def _by_nodes(layer: RawLayer, graph: GraphFacts) -> Kind:
    """Judge a kernel that is no generated one by its ONNX nodes."""
    operators = {graph.nodes[name].operator for name in layer.nodes if name in graph.nodes}
    if not operators:
        return Kind.other
    if operators <= _ONNX_MOVES:
        return _convert_or_move(layer)
    if operators <= _ONNX_CONVERTS | _ONNX_MOVES:
        return Kind.conversion
    return Kind.normalization if any("Normalization" in name for name in operators) else Kind.other
