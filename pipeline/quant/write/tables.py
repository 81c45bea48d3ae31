"""Write int8 embedding tables into the graph, in the form that each runtime keeps small.

TensorRT takes int8 constants in front of a DequantizeLinear only, and moves that behind the lookup
by itself: the plan holds the int8 table. ONNX Runtime and OpenVINO would dequantize the whole table
first, so ``model.onnx`` looks up int8 rows and their scales, and multiplies those.
"""

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from pipeline.graph.files import add_initializer, constant, insert_before
from pipeline.quant.round.tables import QuantizedTable


def insert_table_dequantize(graph: ir.Graph, tables: Sequence[QuantizedTable]) -> None:
    """Let every lookup read a DequantizeLinear of the int8 table, in place."""
    for table in tables:
        name, old = table.name, table.lookups[0].inputs[0]
        assert old is not None
        inputs = [
            add_initializer(graph, f"{name}.int8", table.integers),
            add_initializer(graph, f"{name}.scale", table.scales),
            add_initializer(graph, f"{name}.zero_point", np.zeros(len(table.scales), np.int8)),
        ]
        node = ir.node("DequantizeLinear", inputs, {"axis": 0}, name=f"{name}.dequantize")
        rows = node.outputs[0]
        rows.name, rows.dtype, rows.shape = f"{name}.dequantized", ir.DataType.FLOAT, old.shape
        graph.insert_before(table.lookups[0], node)
        for lookup in table.lookups:
            lookup.replace_input_with(0, rows)
        del graph.initializers[name]


def scale_rows_behind_lookup(graph: ir.Graph) -> int:
    """Turn lookups in a dequantized table into lookups of int8 rows and of scales, in place.

    Returns how many lookups there were.
    """
    changed = 0
    for node in list(graph):
        table = node.inputs[0] if node.op_type == "Gather" else None
        dequantize = table.producer() if table is not None else None
        if dequantize is None or dequantize.op_type != "DequantizeLinear":
            continue
        if constant(dequantize.inputs[0]) is None:
            continue
        _scale_rows(graph, node, dequantize)
        changed += 1
    return changed


def _scale_rows(graph: ir.Graph, lookup: ir.Node, dequantize: ir.Node) -> None:
    integers, scales, _ = dequantize.inputs
    output, ids = lookup.outputs[0], lookup.inputs[1]
    array = constant(scales)
    assert integers is not None
    assert scales is not None
    assert array is not None
    assert ids is not None
    column = f"{scales.name}.column"
    if column not in graph.initializers:
        add_initializer(graph, column, array[:, None])
    rows = ir.node("Gather", [integers, ids], {"axis": 0})
    floats = ir.node("Cast", [rows.outputs[0]], {"to": int(ir.DataType.FLOAT)})
    steps = ir.node("Gather", [graph.initializers[column], ids], {"axis": 0})
    scaled = ir.node("Mul", [floats.outputs[0], steps.outputs[0]])
    narrow = None if ids.shape is None else ir.Shape([*ids.shape, 1])
    parts = ((rows, "int8"), (floats, "cast"), (steps, "scales"), (scaled, "scaled"))
    for part, suffix in parts:
        made = part.outputs[0]
        part.name = made.name = f"{output.name}.{suffix}"
        made.dtype = ir.DataType.INT8 if part is rows else ir.DataType.FLOAT
        made.shape = narrow if part is steps else output.shape
    insert_before(graph, lookup, [part for part, _ in parts])
    output.replace_all_uses_with(scaled.outputs[0])
    graph.remove(lookup, safe=True)
    if not dequantize.outputs[0].uses():
        graph.remove(dequantize, safe=True)
