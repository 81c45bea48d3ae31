"""encode --to: each file is loaded and searched by the library that it is for."""

import json
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from light_bundle import write_bundle

from pipeline.contracts import OnnxModel, SourceModel
from pipeline.encode import main
from pipeline.runtime import load
from pipeline.runtime.encoder import TextEncoder
from pipeline.vectors import FloatArray

TEXTS = [f"{'rather ' * (i % 7)}{word} number {i}" for i in range(30) for word in ("lake", "oven")]
NUMBERS = [7 * i + 3 for i in range(len(TEXTS))]
NAMES = [f"doc-{i:03d}" for i in range(len(TEXTS))]

To = Callable[..., Path]


@pytest.fixture(scope="module")
def bundle(
    tiny_source: SourceModel, tiny_fp32: OnnxModel, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    return write_bundle(tmp_path_factory.mktemp("bundle") / "tiny", tiny_source, tiny_fp32)


@pytest.fixture(scope="module")
def encoder(bundle: Path) -> TextEncoder:
    return load(bundle)


@pytest.fixture(scope="module")
def floats(encoder: TextEncoder) -> FloatArray:
    vectors: FloatArray = encoder.encode(TEXTS)
    return vectors


@pytest.fixture(scope="module")
def ranges(floats: FloatArray, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("ranges") / "ranges.npy"
    np.save(path, floats)
    return path


@pytest.fixture
def hand_over(bundle: Path, ranges: Path, tmp_path: Path, capsys: Any) -> To:
    """Return a function that encodes the texts, with ids of a kind, to a file of a kind."""
    rows = [
        {"text": t, "number": n, "name": s} for t, n, s in zip(TEXTS, NUMBERS, NAMES, strict=True)
    ]
    given = tmp_path / "texts.jsonl"
    given.write_text("".join(json.dumps(row) + "\n" for row in rows))

    def encode(to: str, precision: str, ids: str | None = None, *more: str) -> Path:
        out = tmp_path / f"out-{precision}"
        options = ["--to", to, "--precision", precision, *more]
        if "int8" in precision:
            options += ["--ranges", str(ranges)]
        options += ["--ids", ids] if ids else []
        code = main([str(bundle), str(given), str(out), *options])
        assert code == 0, capsys.readouterr().err
        return out

    return encode


def in_form(encoder: TextEncoder, ranges: Path, precision: str) -> Any:
    """Return the texts as whoever searches has them: the same precision, one step for int8."""
    if precision == "int8":
        vectors = np.load(ranges)
        ends = np.stack((vectors.min(axis=0), vectors.max(axis=0)))
        return encoder.encode(TEXTS, precision="int8_dot", ranges=ends)
    name: Any = "ubinary" if precision == "binary" else precision
    return encoder.encode(TEXTS, precision=name)


@pytest.mark.parametrize("precision", ["float32", "float16", "int8", "binary"])
def test_usearch_finds_each_text_by_its_id(
    precision: str, hand_over: To, encoder: TextEncoder, ranges: Path
) -> None:
    index_module = pytest.importorskip("usearch.index")
    index = index_module.Index.restore(str(hand_over("usearch", precision, "number")))
    assert (len(index), index.ndim) == (len(TEXTS), 32)
    kinds = {"float32": "F32", "float16": "F16", "int8": "I8", "binary": "B1"}
    assert kinds[precision] in str(index.dtype).upper()
    queries = in_form(encoder, ranges, precision)
    found = index.search(queries, 3)
    assert_found_first(np.asarray(found.keys), np.asarray(found.distances), NUMBERS)


@pytest.mark.parametrize("kind", ["flat", "hnsw"])
@pytest.mark.parametrize("precision", ["float32", "float16", "int8", "binary"])
def test_faiss_finds_each_text_by_its_id(
    precision: str, kind: str, hand_over: To, encoder: TextEncoder, ranges: Path
) -> None:
    faiss = pytest.importorskip("faiss")
    path = str(hand_over("faiss", precision, "number", "--index", kind))
    queries = in_form(encoder, ranges, precision)
    if precision == "binary":
        index = faiss.read_index_binary(path)
        distances, keys = index.search(queries, 3)
    else:
        index = faiss.read_index(path)
        distances, keys = index.search(queries.astype(np.float32), 3)
        distances = -distances
    assert index.ntotal == len(TEXTS)
    assert_found_first(keys, distances, NUMBERS)


def assert_found_first(keys: Any, distances: Any, expected: list[int]) -> None:
    """Check that each text is at the least distance from itself; others may be as near."""
    near = 5e-3 * max(1.0, float(np.abs(distances).max()))
    for row, key in enumerate(expected):
        at = np.flatnonzero(keys[row].astype(np.int64) == key)
        assert at.size or distances[row][-1] - distances[row][0] <= near, row
        if at.size:
            assert distances[row][at[0]] - distances[row][0] <= near, row


def test_int8_in_an_index_keeps_the_neighbours(
    hand_over: To, encoder: TextEncoder, ranges: Path, floats: FloatArray
) -> None:
    faiss = pytest.importorskip("faiss")
    index = faiss.read_index(str(hand_over("faiss", "int8")))
    _, keys = index.search(in_form(encoder, ranges, "int8").astype(np.float32), 10)
    exact = np.argsort(-floats @ floats.T, axis=1)[:, :10]
    kept = np.mean([len(set(a) & set(b)) / 10 for a, b in zip(keys, exact, strict=True)])
    assert kept > 0.9


@pytest.mark.parametrize("to", ["usearch", "faiss"])
def test_ids_that_are_text_lie_beside(to: str, hand_over: To, encoder: TextEncoder) -> None:
    pytest.importorskip(to)
    out = hand_over(to, "float32", "name")
    assert json.loads(out.with_name(f"{out.name}.ids.json").read_text()) == NAMES
    query = encoder.encode(TEXTS[:4])
    if to == "usearch":
        from usearch.index import Index

        index = Index.restore(str(out))
        assert index is not None
        keys = np.asarray(index.search(query, 1).keys)[:, 0]
    else:
        import faiss

        keys = faiss.read_index(str(out)).search(query, 1)[1][:, 0]
    assert keys.tolist() == [0, 1, 2, 3]


def points(path: Path) -> list[Mapping[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_lines_for_qdrant(hand_over: To, floats: FloatArray) -> None:
    rows = points(hand_over("qdrant-jsonl", "float32", "name", "--keep", "number"))
    assert [uuid.UUID(row["id"]) for row in rows] == [
        uuid.uuid5(uuid.NAMESPACE_OID, name) for name in NAMES
    ]
    assert [row["payload"] for row in rows] == [
        {"id": name, "number": n} for name, n in zip(NAMES, NUMBERS, strict=True)
    ]
    np.testing.assert_allclose([row["vector"] for row in rows], floats, atol=1e-6)
    plain = points(hand_over("qdrant-jsonl", "float16", "number"))
    assert [row["id"] for row in plain] == NUMBERS
    assert "payload" not in plain[0]


def test_int8_for_qdrant_is_nearest_by_euclid(
    hand_over: To, encoder: TextEncoder, ranges: Path
) -> None:
    rows = points(hand_over("qdrant-jsonl", "int8"))
    levels = np.array([row["vector"] for row in rows])
    assert levels.min() >= 0
    assert levels.max() <= 255
    np.testing.assert_array_equal(levels - 128, in_form(encoder, ranges, "int8"))
    assert [row["id"] for row in rows] == list(range(len(TEXTS)))


def test_parquet_has_the_ids(hand_over: To, floats: FloatArray) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    table = parquet.read_table(hand_over("parquet", "float32", "name", "--keep", "number"))
    assert table.column_names == ["id", "number", "embedding"]
    assert table["id"].to_pylist() == NAMES
    np.testing.assert_array_equal(np.stack(table["embedding"].to_numpy()), floats)


def test_a_beir_collection_keeps_its_ids(
    bundle: Path, encoder: TextEncoder, tmp_path: Path
) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    rows = [
        {"_id": "D-1", "title": "Lakes", "text": "are deep."},
        {"_id": "D-2", "title": "", "text": "No title."},
    ]
    corpus = tmp_path / "beir" / "corpus.jsonl"
    corpus.parent.mkdir()
    corpus.write_text("".join(json.dumps(row) + "\n" for row in rows))
    out = tmp_path / "out.parquet"
    assert main([str(bundle), str(corpus.parent), str(out), "--format", "beir"]) == 0
    table = parquet.read_table(out)
    assert table["id"].to_pylist() == ["D-1", "D-2"]
    expected = encoder.encode(["Lakes are deep.", "No title."])
    np.testing.assert_array_equal(np.stack(table["embedding"].to_numpy()), expected)


@pytest.mark.parametrize(
    ("ids", "options", "message"),
    [
        ([1, 1], ["--to", "faiss"], "id 1 stands twice"),
        (["a", "a"], ["--to", "qdrant-jsonl"], "id 'a' stands twice"),
        ([1, 2], ["--to", "npy"], "npy holds vectors only"),
        ([1, 2], ["--to", "faiss", "--keep", "text"], "vectors and ids only"),
        ([1, 2], ["--to", "qdrant-jsonl", "--precision", "binary"], "Qdrant makes bits"),
    ],
)
def test_what_no_index_takes(
    ids: list[Any], options: list[str], message: str, bundle: Path, tmp_path: Path, capsys: Any
) -> None:
    pytest.importorskip("faiss")
    given = tmp_path / "texts.jsonl"
    given.write_text("".join(json.dumps({"text": f"t {i}", "n": i}) + "\n" for i in ids))
    assert main([str(bundle), str(given), str(tmp_path / "out"), "--ids", "n", *options]) == 1
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
