"""Write int8 into the graph as QuantizeLinear/DequantizeLinear pairs.

Explicit quantization as TensorRT's developer guide asks for it ("Working with Quantized Types"):
one Q/DQ pair on the tensor a group reads, int8 weights behind a per-channel DequantizeLinear.
"""

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from pipeline.graph import add_initializer, constant, insert_before
from pipeline.quant.gemms import FloatArray, GemmGroup

UNSIGNED_ZERO_POINT = np.uint8(128)


def insert_qdq(
    graph: ir.Graph,
    group: GemmGroup,
    scale: np.float32,
    weights: list[tuple[npt.NDArray[np.int8], FloatArray]],
) -> None:
    """Quantize in place: the group's tensor with ``scale``, each GEMM with (int8, scales)."""
    name = group.name
    scale_value = add_initializer(graph, f"{name}.scale", np.array(scale, np.float32))
    zero = add_initializer(graph, f"{name}.zero_point", np.array(0, np.int8))
    quantize = ir.node(
        "QuantizeLinear", [group.activation, scale_value, zero], name=f"{name}.quantize"
    )
    _type(quantize, f"{name}.quantized", ir.DataType.INT8, group.activation.shape)
    dequantize = ir.node(
        "DequantizeLinear", [quantize.outputs[0], scale_value, zero], name=f"{name}.dequantize"
    )
    _type(dequantize, f"{name}.dequantized", ir.DataType.FLOAT, group.activation.shape)
    insert_before(graph, group.gemms[0].node, [quantize, dequantize])
    for gemm, (integers, scales) in zip(group.gemms, weights, strict=True):
        old = gemm.node.inputs[1]
        assert old is not None
        stem = f"{gemm.name}.weight"
        inputs = [
            add_initializer(graph, f"{stem}.int8", integers),
            add_initializer(graph, f"{stem}.scale", scales),
            add_initializer(graph, f"{stem}.zero_point", np.zeros(len(scales), np.int8)),
        ]
        weight = ir.node("DequantizeLinear", inputs, {"axis": 1}, name=f"{stem}.dequantize")
        _type(weight, f"{stem}.dequantized", ir.DataType.FLOAT, ir.Shape(integers.shape))
        graph.insert_before(gemm.node, weight)
        gemm.node.replace_input_with(0, dequantize.outputs[0])
        gemm.node.replace_input_with(1, weight.outputs[0])
        if not old.uses() and old.name is not None:
            graph.initializers.pop(old.name, None)


def _type(node: ir.Node, name: str, dtype: ir.DataType, shape: ir.Shape | None) -> None:
    output = node.outputs[0]
    output.name, output.dtype, output.shape = name, dtype, shape


def to_unsigned_activations(graph: ir.Graph) -> int:
    """Shift every quantized activation to uint8 with zero point 128, and return how many.

    The same scales give the same numbers; ONNX Runtime's CPU kernels are fast on this form only.
    """
    changed = 0
    for node in list(graph):
        if node.op_type != "QuantizeLinear":
            continue
        old = node.inputs[2]
        array = constant(old)
        assert old is not None
        assert old.name is not None
        assert array is not None
        if array.dtype != np.int8:
            continue
        shifted = add_initializer(graph, f"{old.name}.uint8", np.array(UNSIGNED_ZERO_POINT))
        old.replace_all_uses_with(shifted)
        del graph.initializers[old.name]
        node.outputs[0].dtype = ir.DataType.UINT8
        changed += 1
    return changed
