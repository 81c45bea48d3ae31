"""benchmarks.search: its vectors, its truth, and each index behind its one interface."""

import numpy as np
import pytest

from benchmarks.search import FORMS, Opened, Side, exact_neighbours, mix, table
from pipeline.runtime.output import quantize_embeddings
from pipeline.vectors import FloatArray, unit


@pytest.fixture(scope="module")
def base() -> FloatArray:
    return unit(np.random.default_rng(0).normal(size=(60, 64)).astype(np.float32))


@pytest.fixture(scope="module")
def vectors(base: FloatArray) -> FloatArray:
    return np.concatenate(list(mix(base, 500, seed=1)))


def test_mixtures_lie_between_their_texts(base: FloatArray, vectors: FloatArray) -> None:
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    np.testing.assert_array_equal(vectors, np.concatenate(list(mix(base, 500, seed=1))))
    assert (vectors != np.concatenate(list(mix(base, 500, seed=2)))).any()
    two = np.sort(vectors @ base.T, axis=1)[:, -2:]
    assert np.median(two[:, 0]) > 0.4


def test_the_truth_is_a_full_sort(
    vectors: FloatArray, base: FloatArray, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("benchmarks.search._BLOCK", 130)
    found = exact_neighbours(vectors, base)
    expected = np.argsort(-base @ vectors.T, axis=1)[:, :10]
    np.testing.assert_array_equal(np.sort(found, axis=1), np.sort(expected, axis=1))


@pytest.mark.parametrize("library", ["usearch", "faiss"])
@pytest.mark.parametrize("kind", ["exact", "hnsw"])
def test_every_index_finds_what_is_in_it(
    library: str, kind: str, vectors: FloatArray, base: FloatArray
) -> None:
    pytest.importorskip(library)
    ranges = np.stack((vectors.min(axis=0), vectors.max(axis=0)))
    for form in FORMS:
        own = quantize_embeddings(vectors, form, ranges if form == "int8_dot" else None)
        index = Opened(Side(library=library, kind=kind, form=form), own.shape[1])
        index.add(own[:300], 0)
        index.add(own[300:], 300)
        index.finish()
        found = index.search(own[::25])
        first = [row in keys[:3] for row, keys in zip(range(0, 500, 25), found, strict=True)]
        assert np.mean(first) >= 0.95, form


def test_a_table_has_a_row_for_each_index() -> None:
    row = {
        "build_cpu_s": 1.25,
        "memory_bytes": 3 * 2**20,
        "recall_at_10": 0.987,
        "queries_per_cpu_s": 1234.0,
        "times_float32": {"median": 2.0, "ci95": [1.5, 2.5]},
    }
    text = table({"faiss hnsw int8_dot": row})
    assert text.splitlines()[-1] == (
        "| faiss hnsw | int8_dot | 1.2 | 3 | 98.7 % | 1,234 | 2.00 (1.50 to 2.50) |"
    )
