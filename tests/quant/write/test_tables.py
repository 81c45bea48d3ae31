"""An int8 table stays int8: in both files, and in what the runtimes make of ``model.onnx``."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from simulated import run_unoptimized

from pipeline.config import NumericType
from pipeline.contracts import Graphs, OnnxModel, SourceModel
from pipeline.engines.onnxruntime import OnnxRuntimeEncoder
from pipeline.graph.files import load_graph, save_graph
from pipeline.quant.round.tables import QuantizedTable, round_tables
from pipeline.quant.write.tables import insert_table_dequantize, scale_rows_behind_lookup
from pipeline.text.tokens import TokenBatch
from pipeline.vectors import row_cosines

WORDS = "chain.0.model.embeddings.word_embeddings.weight"


@pytest.fixture
def forms(tiny_fp32: OnnxModel, tmp_path: Path) -> tuple[Path, Path, list[QuantizedTable]]:
    """The tiny model with only its tables in int8: for engines, and as ``model.onnx``."""
    graph = load_graph(tiny_fp32)
    tables = list(round_tables(graph.graph))
    insert_table_dequantize(graph.graph, tables)
    paths = tmp_path / "engines.onnx", tmp_path / "model.onnx"
    save_graph(graph, paths[0], precision=NumericType.int8, source_sha256="")
    assert scale_rows_behind_lookup(graph.graph) == len(tables)
    save_graph(graph, paths[1], precision=NumericType.int8, source_sha256="")
    return *paths, tables


def test_both_forms_compute_the_same_and_nearly_what_fp32_does(
    forms: tuple[Path, Path, list[QuantizedTable]],
    tiny_fp32: OnnxModel,
    evaluation_batch: TokenBatch,
) -> None:
    engines, portable, tables = forms
    assert WORDS in {table.name for table in tables}
    theirs, ours = (run_unoptimized(path, evaluation_batch) for path in (engines, portable))
    np.testing.assert_allclose(theirs, ours, atol=1e-6)
    exact = OnnxRuntimeEncoder(tiny_fp32.path).encode(evaluation_batch)
    cosines = row_cosines(exact, ours)
    assert 0.999 < cosines.min() < 1 - 1e-7


def table_types(model: onnx.ModelProto, rows: int) -> Counter[int]:
    """Count the types of a graph's constants of ``rows`` rows and more than one column."""
    shapes = ((t, t.dims) for t in model.graph.initializer)
    return Counter(
        t.data_type for t, dims in shapes if len(dims) == 2 and dims[0] == rows != dims[1] != 1
    )


def test_onnx_runtime_keeps_the_table_in_int8(tiny_int8: Graphs, tmp_path: Path) -> None:
    rows = vocabulary(tiny_int8)
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    ort.InferenceSession(tiny_int8.portable.path, options, providers=["CPUExecutionProvider"])
    optimized = onnx.load(tmp_path / "optimized.onnx")
    assert table_types(optimized, rows) == {onnx.TensorProto.INT8: 1}


@pytest.mark.slow
def test_openvino_keeps_the_table_in_int8(tiny_int8: Graphs) -> None:
    ov = pytest.importorskip("openvino")
    rows = vocabulary(tiny_int8)
    compiled = ov.Core().compile_model(tiny_int8.portable.path, "CPU")
    nodes = compiled.get_runtime_model().get_ordered_ops()
    found = [
        node.get_output_element_type(0).get_type_name()
        for node in nodes
        if not node.get_input_size()
        and (shape := node.get_output_partial_shape(0)).is_static
        and list(shape.to_shape())[:1] == [rows]
        and list(shape.to_shape())[1:] != [1]
    ]
    assert found == ["i8"]


def test_the_engines_graph_has_int8_rows_in_front_of_a_dequantize(tiny_int8: Graphs) -> None:
    graph = load_graph(tiny_int8.buildable).graph
    table = graph.initializers[f"{WORDS}.int8"]
    (use,) = table.uses()
    assert use.node.op_type == "DequantizeLinear"
    assert use.node.attributes["axis"].as_int() == 0
    assert [reader.node.op_type for reader in use.node.outputs[0].uses()] == ["Gather"]


@pytest.mark.parametrize("form", ["portable", "buildable"])
def test_no_floating_point_table_is_left_in_a_file(form: str, tiny_int8: Graphs) -> None:
    model: OnnxModel = getattr(tiny_int8, form)
    assert table_types(onnx.load(model.path), vocabulary(tiny_int8)) == {onnx.TensorProto.INT8: 1}


@pytest.mark.slow
def test_the_setting_leaves_tables_as_they_are(
    quantize_tiny: Callable[..., Graphs], tiny_fp32: OnnxModel, tiny_source: SourceModel
) -> None:
    graphs = quantize_tiny(tiny_fp32, tiny_source, embeddings=False)
    said = graphs.quantization or {}
    assert said["embedding_tables_int8"] == []
    assert WORDS in load_graph(graphs.portable).graph.initializers


def vocabulary(graphs: Graphs) -> int:
    """Return the rows of the word embeddings, as the report names them."""
    said = graphs.quantization or {}
    (words,) = (t for t in said["embedding_tables_int8"] if t["name"] == WORDS)
    return int(words["shape"][0])
