"""Which tables go in int8, and what rounding a row costs."""

from collections.abc import Callable

import numpy as np
import onnx_ir as ir
import pytest

from pipeline.graph.files import add_initializer
from pipeline.quant.round.tables import find_tables, round_tables
from pipeline.vectors import FloatArray

Build = Callable[[ir.Graph, ir.Value, ir.Value], list[ir.Node]]

ROWS, CHANNELS = 50, 8


def graph_with(table: FloatArray, build: Build) -> ir.Graph:
    """Return a graph of one table, ids, and the nodes that ``build`` makes of them."""
    ids = ir.Value(
        name="ids", shape=ir.Shape(["batch", "sequence"]), type=ir.TensorType(ir.DataType.INT64)
    )
    graph = ir.Graph([ids], [], nodes=[], opset_imports={"": 20}, name="g")
    for node in build(graph, add_initializer(graph, "words", table), ids):
        graph.append(node)
    return graph


def look_up(graph: ir.Graph, table: ir.Value, ids: ir.Value) -> list[ir.Node]:
    return [ir.node("Gather", [table, ids], name="look_up")]


def tie(graph: ir.Graph, table: ir.Value, ids: ir.Value) -> list[ir.Node]:
    (rows,) = look_up(graph, table, ids)
    return [rows, ir.node("MatMul", [rows.outputs[0], table])]


def look_up_channels(graph: ir.Graph, table: ir.Value, ids: ir.Value) -> list[ir.Node]:
    return [ir.node("Gather", [table, ids], {"axis": 1})]


def index_the_ids(graph: ir.Graph, table: ir.Value, ids: ir.Value) -> list[ir.Node]:
    number = add_initializer(graph, "number", np.array([3]))
    return [ir.node("Gather", [table, number])]


def beside_much_more(graph: ir.Graph, table: ir.Value, ids: ir.Value) -> list[ir.Node]:
    add_initializer(graph, "more", np.zeros((ROWS * 100, CHANNELS), np.float32))
    return look_up(graph, table, ids)


def random_table(rows: int = ROWS, channels: int = CHANNELS) -> FloatArray:
    return np.random.default_rng(0).normal(size=(rows, channels)).astype(np.float32)


def test_a_table_that_rows_are_looked_up_in_is_found() -> None:
    (table,) = find_tables(graph_with(random_table(), look_up))
    assert table.name == "words"


@pytest.mark.parametrize("build", [tie, look_up_channels, index_the_ids, beside_much_more])
def test_what_is_read_otherwise_or_is_small_stays(build: Build) -> None:
    assert find_tables(graph_with(random_table(), build)) == []


def test_every_lookup_of_a_shared_table_is_known() -> None:
    graph = graph_with(random_table(), lambda *g: [*look_up(*g), *look_up(*g)])
    (table,) = round_tables(graph)
    assert list(table.lookups) == list(graph)


def test_an_error_is_half_a_step_of_its_own_row_at_most() -> None:
    exact = random_table() * np.geomspace(0.02, 50, ROWS, dtype=np.float32)[:, None]
    (table,) = round_tables(graph_with(exact, look_up))
    error = np.abs(table.integers * table.scales[:, None] - exact).max(axis=1)
    assert (error <= np.abs(exact).max(axis=1) / 127 * 0.501).all()


def test_a_row_of_zeros_stays_zero() -> None:
    exact = random_table()
    exact[7] = 0
    (table,) = round_tables(graph_with(exact, look_up))
    assert not table.integers[7].any()
    assert (table.scales > 0).all()
