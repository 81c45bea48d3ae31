"""Write int8 or E4M3 into the graph as QuantizeLinear/DequantizeLinear pairs.

Explicit quantization as TensorRT's developer guide asks for it ("Working with Quantized Types"):
one Q/DQ pair on the tensor a group reads, rounded weights behind a per-channel DequantizeLinear.
"""

from collections.abc import Collection

import numpy as np
import onnx_ir as ir

from pipeline.graph.files import add_initializer, constant, insert_before
from pipeline.quant.calibrate.grid import INT8, Grid
from pipeline.quant.condition.smoothing import add_to_bias
from pipeline.quant.round.quantized import QuantizedGroup

UNSIGNED_ZERO_POINT = np.uint8(128)


def insert_qdq(graph: ir.Graph, quantized: QuantizedGroup, names: Collection[str]) -> None:
    """Quantize a group in place: the tensor it reads and the GEMMs that are named.

    The bias takes up what rounding took from the mean output. The other GEMMs of the group go on
    reading the tensor as it is.
    """
    wanted = [part for part in quantized.gemms if part.gemm.name in names]
    if not wanted:
        return
    group = quantized.group
    first = next(part.gemm.node for part in wanted)
    grid = quantized.grid
    rounded = insert_activation_qdq(
        graph, group.activation, quantized.step, before=first, name=group.name, grid=grid
    )
    for part in wanted:
        gemm = part.gemm
        old = gemm.node.inputs[1]
        assert old is not None
        stem = f"{gemm.name}.weight"
        inputs = [
            add_initializer(graph, f"{stem}.{grid.kind.value}", part.integers),
            add_initializer(graph, f"{stem}.scale", part.scales),
            add_initializer(graph, f"{stem}.zero_point", grid.zeros(part.scales.shape)),
        ]
        weight = ir.node("DequantizeLinear", inputs, {"axis": 1}, name=f"{stem}.dequantize")
        shape = ir.Shape(part.integers.shape)
        _type(weight, f"{stem}.dequantized", ir.DataType.FLOAT, shape)
        graph.insert_before(gemm.node, weight)
        gemm.node.replace_input_with(0, rounded)
        gemm.node.replace_input_with(1, weight.outputs[0])
        if not old.uses() and old.name is not None:
            graph.initializers.pop(old.name, None)
        if gemm.bias is not None:
            add_to_bias(graph, gemm, part.bias_delta)


def insert_activation_qdq(
    graph: ir.Graph,
    value: ir.Value,
    scale: np.float32,
    *,
    before: ir.Node,
    name: str,
    grid: Grid = INT8,
) -> ir.Value:
    """Insert a Q/DQ pair behind ``value``, in front of a node, and return what it gives."""
    scale_value = add_initializer(graph, f"{name}.scale", np.array(scale, np.float32))
    zero = add_initializer(graph, f"{name}.zero_point", grid.zeros())
    quantize = ir.node("QuantizeLinear", [value, scale_value, zero], name=f"{name}.quantize")
    _type(quantize, f"{name}.quantized", grid.type, value.shape)
    dequantize = ir.node(
        "DequantizeLinear", [quantize.outputs[0], scale_value, zero], name=f"{name}.dequantize"
    )
    _type(dequantize, f"{name}.dequantized", ir.DataType.FLOAT, value.shape)
    insert_before(graph, before, [quantize, dequantize])
    return dequantize.outputs[0]


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
