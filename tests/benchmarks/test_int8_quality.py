"""The benchmark beside other quantizers: counting, metrics and the table, without the peers."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from benchmarks.int8_quality.embed import mean_pool
from benchmarks.int8_quality.environments import last_line
from benchmarks.int8_quality.gemms import count_gemms, count_onnx
from benchmarks.int8_quality.metrics import measure
from benchmarks.int8_quality.peers.job import Reader, unpadded_feeds
from benchmarks.int8_quality.rows import Row, all_rows
from benchmarks.int8_quality.table import render, write_between_markers
from benchmarks.int8_quality.texts import Texts, load_texts
from pipeline.contracts import Graphs
from pipeline.text.labelled import Retrieval, ScoredPairs


def _graph(nodes: list[onnx.NodeProto], constants: dict[str, Any]) -> onnx.ModelProto:
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 4])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 4])
    tensors = [numpy_helper.from_array(np.asarray(array), k) for k, array in constants.items()]
    return helper.make_model(helper.make_graph(nodes, "g", [x], [y], tensors))


SCALE = np.float32(0.1)
CONSTANTS = {
    "s": SCALE,
    "zero": np.int8(0),
    "w": np.ones((4, 4), np.float32),
    "w8": np.ones((4, 4), np.int8),
}
QUANTIZE_X = [
    helper.make_node("QuantizeLinear", ["x", "s", "zero"], ["x8"]),
    helper.make_node("DequantizeLinear", ["x8", "s", "zero"], ["xq"]),
]
DEQUANTIZE_W = helper.make_node("DequantizeLinear", ["w8", "s", "zero"], ["wq"])


def test_a_gemm_between_qdq_pairs_is_int8() -> None:
    nodes = [*QUANTIZE_X, DEQUANTIZE_W, helper.make_node("MatMul", ["xq", "wq"], ["y"])]
    gemms = count_onnx(_graph(nodes, CONSTANTS))
    assert (gemms.linear, gemms.int8, gemms.static) == (1, 1, True)
    assert gemms.other == {}


def test_a_reshape_between_is_looked_through_and_so_is_an_unfolded_weight() -> None:
    nodes = [
        *QUANTIZE_X,
        helper.make_node("Reshape", ["xq", "shape"], ["xr"]),
        helper.make_node("QuantizeLinear", ["w", "s", "zero"], ["wi"]),
        helper.make_node("DequantizeLinear", ["wi", "s", "zero"], ["wq"]),
        helper.make_node("Transpose", ["wq"], ["wt"]),
        helper.make_node("MatMul", ["xr", "wt"], ["y"]),
    ]
    gemms = count_onnx(_graph(nodes, {**CONSTANTS, "shape": np.array([-1, 4])}))
    assert (gemms.linear, gemms.int8) == (1, 1)


def test_int8_weights_alone_do_not_make_an_int8_gemm() -> None:
    dequantized = count_onnx(
        _graph([DEQUANTIZE_W, helper.make_node("MatMul", ["x", "wq"], ["y"])], CONSTANTS)
    )
    cast = [
        helper.make_node("Cast", ["w8"], ["wf"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["wf", "s"], ["ws"]),
        helper.make_node("MatMul", ["x", "ws"], ["y"]),
    ]
    for gemms in (dequantized, count_onnx(_graph(cast, CONSTANTS))):
        assert (gemms.linear, gemms.int8, gemms.weight_only, gemms.static) == (1, 0, 1, None)


def test_float_gemms_and_16_bit_activations_are_not_int8() -> None:
    plain = _graph([helper.make_node("MatMul", ["x", "w"], ["y"])], CONSTANTS)
    wide = {**CONSTANTS, "zero16": np.int16(0)}
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "zero16"], ["x16"]),
        helper.make_node("DequantizeLinear", ["x16", "s", "zero16"], ["xq"]),
        DEQUANTIZE_W,
        helper.make_node("MatMul", ["xq", "wq"], ["y"]),
    ]
    assert count_onnx(plain).int8 == count_onnx(_graph(nodes, wide)).int8 == 0


def test_dynamic_integer_gemms_are_int8_and_not_static() -> None:
    nodes = [
        helper.make_node("DynamicQuantizeLinear", ["x"], ["x8", "xs", "xz"]),
        helper.make_node("MatMulInteger", ["x8", "w8", "xz", "zero"], ["yi"]),
        helper.make_node("Cast", ["yi"], ["y"], to=TensorProto.FLOAT),
    ]
    gemms = count_onnx(_graph(nodes, CONSTANTS))
    assert (gemms.linear, gemms.int8, gemms.static) == (1, 1, False)


def test_what_is_quantized_besides_is_counted_apart() -> None:
    nodes = [
        *QUANTIZE_X,
        DEQUANTIZE_W,
        helper.make_node("Gather", ["wq", "ids"], ["e"]),
        helper.make_node("MatMul", ["xq", "xq"], ["a"]),
        helper.make_node("Add", ["xq", "e"], ["y"]),
    ]
    gemms = count_onnx(_graph(nodes, {**CONSTANTS, "ids": np.array([0, 1])}))
    assert (gemms.linear, gemms.attention, gemms.embeddings) == (0, 1, 1)
    assert gemms.other == {"Add": 1}


def test_our_own_graph_counts_in_full(tiny_int8: Graphs) -> None:
    gemms = count_gemms(tiny_int8.portable.path)
    assert (gemms.linear, gemms.int8, gemms.attention, gemms.static) == (12, 12, 0, True)


IR = """<net><layers>
<layer id="0" type="Parameter"/><layer id="1" type="FakeQuantize"/>
<layer id="2" type="Const"><data element_type="i8" shape="4, 4"/></layer>
<layer id="3" type="Convert"/>
<layer id="4" type="Const"><data element_type="f32" shape="4, 1"/></layer>
<layer id="5" type="Multiply"/><layer id="6" type="MatMul"/><layer id="7" type="MatMul"/>
</layers><edges>
<edge from-layer="0" to-layer="1" to-port="0"/>
<edge from-layer="2" to-layer="3" to-port="0"/>
<edge from-layer="4" to-layer="5" to-port="1"/><edge from-layer="3" to-layer="5" to-port="0"/>
<edge from-layer="5" to-layer="6" to-port="1"/><edge from-layer="1" to-layer="6" to-port="0"/>
<edge from-layer="0" to-layer="7" to-port="0"/><edge from-layer="5" to-layer="7" to-port="1"/>
</edges></net>"""


def test_openvino_counts_gemms_that_fake_quantize_feeds(tmp_path: Path) -> None:
    path = tmp_path / "model.xml"
    path.write_text(IR)
    gemms = count_gemms(path)
    assert (gemms.linear, gemms.int8, gemms.weight_only, gemms.static) == (2, 1, 1, True)


@pytest.fixture
def texts() -> Texts:
    documents = tuple(f"document {i}" for i in range(14))
    return Texts(
        calibration=("elsewhere",),
        sentences=documents[:13],
        documents=documents,
        similarity=ScoredPairs(
            name="pairs",
            pairs=((documents[0], documents[1]), (documents[2], documents[3])),
            scores=(0.0, 5.0),
        ),
        retrieval=Retrieval(
            name="collection",
            metric="ndcg_at_10",
            queries=("query",),
            documents=documents,
            relevant=({3: 1},),
        ),
    )


def _vectors(texts: Texts) -> Any:
    return np.random.default_rng(0).normal(size=(len(texts.unique), 16)).astype(np.float32)


def test_equal_embeddings_agree_in_everything(texts: Texts) -> None:
    vectors = _vectors(texts)
    metrics = measure(texts, vectors, 2 * vectors)
    for name in ("stsb", "nfcorpus"):
        assert metrics[name]["mean"] == pytest.approx(1)
        assert metrics[name]["neighbor_overlap_at_10"] == 1
    assert metrics["spearman"] == pytest.approx(100) or metrics["spearman"] == pytest.approx(-100)
    assert 0 <= metrics["ndcg_at_10"] <= 100


def test_a_query_counts_for_retrieval_only(texts: Texts) -> None:
    vectors = _vectors(texts)
    changed = vectors.copy()
    changed[texts.unique.index("query")] = vectors[texts.unique.index("document 3")]
    metrics = measure(texts, vectors, changed)
    assert metrics["nfcorpus"]["min"] == pytest.approx(1)
    assert metrics["ndcg_at_10"] == pytest.approx(100)
    assert measure(replace(texts, retrieval=None), vectors[:-1], vectors[:-1])["ndcg_at_10"] is None


def test_nan_and_missing_embeddings_are_refused(texts: Texts) -> None:
    vectors = _vectors(texts)
    with pytest.raises(ValueError, match="NaN"):
        measure(texts, vectors, vectors * np.nan)
    with pytest.raises(ValueError, match="14 embeddings for 15 texts"):
        measure(texts, vectors, vectors[:-1])


def test_texts_come_from_the_directories_given(tmp_path: Path) -> None:
    stsb, beir = tmp_path / "stsb", tmp_path / "beir"
    (beir / "qrels").mkdir(parents=True)
    stsb.mkdir()
    pairs = (f"left {i},right {i},{i}" for i in range(8))
    (stsb / "test.csv").write_text("\n".join(["sentence1,sentence2,score", *pairs]))
    rows = (f'{{"_id": "{i}", "title": "", "text": "text {i}"}}' for i in range(12))
    (beir / "corpus.jsonl").write_text("\n".join(rows))
    (beir / "queries.jsonl").write_text('{"_id": "q", "text": "a query"}')
    (beir / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\nq\t1\t2\n")
    full, quick = (load_texts(stsb, beir, quick=quick) for quick in (False, True))
    assert len(full.unique) == 16 + 12 + 1
    assert quick.retrieval is None
    assert len(quick.unique) == 16 + 12
    assert quick.sha256 == full.sha256


def test_calibration_feeds_hold_no_padding() -> None:
    rows = [[1, 2], [1, 5, 2], [3, 4]]
    feeds = unpadded_feeds(rows, ["input_ids", "attention_mask", "token_type_ids"])
    assert [feed["input_ids"].tolist() for feed in feeds] == [[[1, 2], [3, 4]], [[1, 5, 2]]]
    assert all(feed["attention_mask"].all() for feed in feeds)
    assert not any(feed["token_type_ids"].any() for feed in feeds)
    reader = Reader(feeds)
    assert [reader.get_next(), reader.get_next(), reader.get_next()] == [*feeds, None]
    reader.rewind()
    assert reader.get_next() is reader.get_first()


def test_padding_does_not_enter_the_mean() -> None:
    tokens = np.array([[[3.0, 4.0], [3.0, 4.0], [9.0, 9.0]]], dtype=np.float32)
    assert mean_pool(tokens, np.array([[1, 1, 0]])) == pytest.approx(np.array([[0.6, 0.8]]))


def test_rows_have_names_of_their_own_and_hold_the_presets() -> None:
    names = [row.name for row in all_rows()]
    assert len(names) == len(set(names))
    assert names[:2] == ["fp32", "fp16"]
    assert "int8" in names


def test_the_table_takes_results_and_failures(texts: Texts, tmp_path: Path) -> None:
    vectors = _vectors(texts)
    gemms = {
        "linear": 36,
        "int8": 30,
        "weight_only": 6,
        "attention": 12,
        "embeddings": 0,
        "other": {"Add": 2},
        "static": True,
    }
    good = {
        "seconds": None,
        "bytes": 1_500_000,
        "gemms": gemms,
        "metrics": measure(texts, vectors, vectors),
        "versions": {"maker": "1.0"},
    }
    rows = [Row(name=name, title=name, setting="defaults") for name in ("good", "bad")]
    results: list[tuple[Row, Any]] = [(rows[0], good), (rows[1], {"failed": "no | wheel"})]
    table = render(results, texts, measure(texts, vectors, vectors))
    assert "an nfcorpus nDCG@10 of" in table
    assert "| good | 30 of 36 | yes | 1.00000 |" in table
    assert "| bad | failed: no / wheel |" in table
    assert "12 attention GEMMs, 2 inputs of Add" in table
    widths = {line.count("|") for line in table.splitlines() if line.startswith("|")}
    assert widths == {16, 6}
    page = tmp_path / "page.md"
    begin, end = (f"<!-- benchmarks.int8_quality mine: {side} -->" for side in ("begin", "end"))
    page.write_text(f"before\n{begin}\nold\n{end}\nafter\n")
    write_between_markers(page, "mine", table)
    write_between_markers(page, "mine", table)
    assert page.read_text() == f"before\n{begin}\n\n{table}\n\n{end}\nafter\n"
    with pytest.raises(ValueError, match=r"another: begin -->.*once each"):
        write_between_markers(page, "another", table)


def test_a_failure_is_told_by_its_last_line() -> None:
    assert last_line("Traceback\n  line\nValueError: no\n\n") == "ValueError: no"
    assert last_line(" \n") == "no output"
