"""A graph run in pieces gives what it gives in one."""

import gc
import weakref
from collections.abc import Sequence

import numpy as np
import onnx_ir as ir
import pytest

from pipeline.contracts import OnnxModel
from pipeline.engines.onnxruntime import open_session
from pipeline.graph.files import add_initializer, load_graph
from pipeline.graph.pieces import Walk, cheap_cuts, cut
from pipeline.text.tokens import TokenBatch
from pipeline.vectors import FloatArray


@pytest.fixture
def graph(tiny_fp32: OnnxModel) -> ir.Model:
    return load_graph(tiny_fp32)


def floats(graph: ir.Model) -> list[ir.Value]:
    return [v for node in graph.graph for v in node.outputs if v.dtype is ir.DataType.FLOAT]


def whole(model: OnnxModel, batch: TokenBatch) -> FloatArray:
    session = open_session(model.path)
    names = [value.name for value in session.get_inputs()]
    result: FloatArray = session.run(None, batch.feed(names))[0]
    return result


def walked(
    graph: ir.Model, starts: Sequence[int], wanted: Sequence[ir.Value], batch: TokenBatch
) -> dict[str, FloatArray]:
    walk, seen = Walk(cut(graph, starts, wanted), [batch, batch]), dict[str, FloatArray]()
    while len(walk):
        for number, values in walk.step():
            if number:
                seen |= values
    return seen


@pytest.mark.slow
def test_any_cuts_give_the_same(
    graph: ir.Model, tiny_fp32: OnnxModel, evaluation_batch: TokenBatch
) -> None:
    expected = whole(tiny_fp32, evaluation_batch)
    for starts in ([], [40], range(0, len(graph.graph), 3), cheap_cuts(graph.graph, 1)):
        seen = walked(graph, list(starts), graph.graph.outputs, evaluation_batch)
        np.testing.assert_allclose(seen["sentence_embedding"], expected, atol=1e-5)


@pytest.mark.slow
def test_every_tensor_is_seen_once_wherever_it_is_made(
    graph: ir.Model, evaluation_batch: TokenBatch
) -> None:
    wanted = floats(graph)
    together = walked(graph, [], wanted, evaluation_batch)
    apart = walked(graph, range(0, len(graph.graph), 7), wanted, evaluation_batch)
    assert set(apart) == set(together) == {value.name for value in wanted}
    for name, value in together.items():
        np.testing.assert_allclose(apart[name], value, atol=1e-4, rtol=1e-4)


def test_pieces_hold_the_weights_between_them_once(graph: ir.Model) -> None:
    pieces = cut(graph, cheap_cuts(graph.graph, 1), graph.graph.outputs)
    assert len(pieces) > 4
    total, *held = (
        sum(t.nbytes for v in g.initializers.values() if (t := v.const_value) is not None)
        for g in (graph.graph, *(piece.model.graph for piece in pieces))
    )
    assert 0.95 * total < sum(held) < 1.05 * total


def test_cheap_cuts_carry_one_hidden_state_across(graph: ir.Model) -> None:
    pieces = cut(graph, cheap_cuts(graph.graph, 1), graph.graph.outputs)
    wide = [
        [name for name in piece.reads if name not in ("input_ids", "token_type_ids")]
        for piece in pieces[1:-1]
    ]
    assert all(len(names) <= 2 for names in wide)  # it, and the mask


def test_nothing_is_run_that_is_not_wanted(graph: ir.Model) -> None:
    early = next(v for v in floats(graph) if (v.producer() or graph.graph[0]).op_type == "Gelu")
    pieces = cut(graph, [], [early])
    assert len(list(pieces[0].model.graph)) < len(graph.graph) * 0.6


def test_pieces_run_as_the_graph_was(
    graph: ir.Model, tiny_fp32: OnnxModel, evaluation_batch: TokenBatch
) -> None:
    starts = cheap_cuts(graph.graph, 1)
    walk = Walk(cut(graph, starts, graph.graph.outputs), [evaluation_batch])
    for node in graph.graph:
        for index, value in enumerate(node.inputs):
            if value is not None and value.dtype is ir.DataType.FLOAT and value.const_value:
                zeros = np.zeros(value.const_value.numpy().shape, np.float32)
                name = f"{node.name}.{index}.zeros"
                node.replace_input_with(index, add_initializer(graph.graph, name, zeros))
    seen: dict[str, FloatArray] = {}
    while len(walk):
        for _, values in walk.step():
            seen |= values
    expected = whole(tiny_fp32, evaluation_batch)
    np.testing.assert_allclose(seen["sentence_embedding"], expected, atol=1e-5)


def test_weights_go_with_the_piece_that_has_begun(
    graph: ir.Model, evaluation_batch: TokenBatch
) -> None:
    walk = Walk(cut(graph, [len(graph.graph) // 2], graph.graph.outputs), [evaluation_batch])
    weights = []
    for value in graph.graph.initializers.values():
        assert value.const_value is not None
        weights.append(weakref.ref(value.const_value))
        value.const_value = ir.tensor(np.zeros(1, np.float32))  # as quantize does, block by block
    gc.disable()  # nothing is collected by chance
    try:
        counts = []
        while len(walk):
            for _ in walk.step():
                pass
            counts.append(sum(weight() is not None for weight in weights))
    finally:
        gc.enable()
    assert len(weights) > counts[0] > counts[1] == 0
