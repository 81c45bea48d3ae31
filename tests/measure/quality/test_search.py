"""search: what forms of vector find, against searches written out plainly."""

import numpy as np
import pytest

from pipeline.config import GatesConfig, NumericType, SearchGatesConfig
from pipeline.errors import ConfigError
from pipeline.measure.gates import Evidence, apply_gates, check_gates
from pipeline.measure.quality.retrieval import retrieval_metrics
from pipeline.measure.quality.search import (
    FORMS,
    OVERSAMPLING,
    FormScore,
    Sought,
    measure_search,
    search_reference,
    seek,
)
from pipeline.runtime.output import dequantize_embeddings, quantize_embeddings
from pipeline.text.labelled import Retrieval
from pipeline.vectors import FloatArray, unit

DIM = 128
DOCUMENTS = [f"document {i}" for i in range(400)]
QUERIES = [f"query {i}" for i in range(60)]


def make_vectors(count: int, seed: int) -> FloatArray:
    """Return vectors of a few directions and noise, at length 1, as a model's are."""
    random = np.random.default_rng(seed)
    directions = np.random.default_rng(99).normal(size=(12, DIM))
    mixed = random.normal(size=(count, 12)) @ directions + random.normal(size=(count, DIM))
    return unit(mixed.astype(np.float32))


@pytest.fixture(scope="module")
def queries() -> FloatArray:
    return make_vectors(len(QUERIES), 1)


@pytest.fixture(scope="module")
def documents() -> FloatArray:
    return make_vectors(len(DOCUMENTS), 2)


@pytest.fixture(scope="module")
def ranges() -> FloatArray:
    seen = make_vectors(1000, 3)
    return np.stack((seen.min(axis=0), seen.max(axis=0)))


@pytest.fixture(scope="module")
def task(queries: FloatArray, documents: FloatArray) -> Retrieval:
    """Relevant are two documents among the nearest twenty, and one from anywhere."""
    order = np.argsort(-queries @ documents.T, axis=1)
    relevant = tuple({int(row[2]): 2, int(row[17]): 1, i: 1} for i, row in enumerate(order))
    return Retrieval(
        name="made",
        metric="ndcg_at_10",
        queries=tuple(QUERIES),
        documents=tuple(DOCUMENTS),
        relevant=relevant,
    )


@pytest.fixture(scope="module")
def sought(
    task: Retrieval, queries: FloatArray, documents: FloatArray, ranges: FloatArray
) -> Sought:
    return seek(QUERIES, DOCUMENTS, queries, documents, task=task, ranges=ranges, matryoshka=False)


def by_form(sought: Sought, queries: FloatArray, documents: FloatArray) -> dict[str, FormScore]:
    return {score.form: score for score in measure_search(sought, queries, documents).forms}


def plain_recall(exact: FloatArray, other: FloatArray) -> float:
    """Return the share of the ten best by ``exact`` that are among the ten best by ``other``."""
    a, b = (np.argsort(-scores, axis=1, kind="stable")[:, :10] for scores in (exact, other))
    return float(np.mean([len(set(x) & set(y)) / 10 for x, y in zip(a, b, strict=True)]))


def test_every_form_is_what_it_says(
    sought: Sought, queries: FloatArray, documents: FloatArray, ranges: FloatArray
) -> None:
    scores = by_form(sought, queries, documents)
    exact = queries @ documents.T
    levels = quantize_embeddings(documents, "int8", ranges)
    fine = unit(dequantize_embeddings(levels, ranges))
    own = unit(dequantize_embeddings(quantize_embeddings(queries, "int8", ranges), ranges))
    dot = [
        quantize_embeddings(v, "int8_dot", ranges).astype(np.float32) for v in (queries, documents)
    ]
    apart = np.array(
        [
            [np.unpackbits(a ^ b).sum() for b in quantize_embeddings(documents, "ubinary")]
            for a in quantize_embeddings(queries, "ubinary")
        ]
    ).astype(np.float32)
    cut = [unit(v[:, : DIM // 2]) for v in (queries, documents)]
    expected = {
        "float32": 1.0,
        "int8": plain_recall(exact, own @ fine.T),
        "int8_dot": plain_recall(exact, dot[0] @ unit(dot[1]).T),
        "binary": plain_recall(exact, -apart),
        "first_64": plain_recall(exact, cut[0] @ cut[1].T),
    }
    again = np.full_like(exact, -np.inf)
    first = np.argsort(apart, axis=1, kind="stable")[:, : 10 * OVERSAMPLING]
    for scored, name in ((queries @ fine.T, "binary_int8"), (exact, "binary_float32")):
        again[:] = -np.inf
        np.put_along_axis(again, first, np.take_along_axis(scored, first, axis=1), axis=1)
        expected[name] = plain_recall(exact, again)
    for name, recall in expected.items():
        assert scores[name].recall == pytest.approx(recall, abs=0.005), name
    assert scores["binary"].recall < scores["binary_int8"].recall < scores["int8_dot"].recall
    assert scores["first_32"].recall < scores["first_64"].recall < scores["int8"].recall
    assert scores["float16"].recall > 0.99


def test_bytes_are_what_quantized_vectors_take(
    sought: Sought, queries: FloatArray, documents: FloatArray, ranges: FloatArray
) -> None:
    scores = by_form(sought, queries, documents)
    for form in ("float32", "float16", "int8", "int8_dot", "binary"):
        steps = ranges if form.startswith("int8") else None
        one = quantize_embeddings(documents[:1], form, steps)
        assert scores[form].bytes == scores[form].bytes_stored == one.nbytes
    assert (scores["binary_int8"].bytes, scores["binary_int8"].bytes_stored) == (16, 144)
    assert scores["binary_float32"].bytes_stored == 16 + 4 * DIM
    assert (scores["first_64"].dimensions, scores["first_64"].bytes) == (64, 256)
    assert list(scores)[: len(FORMS)] == list(FORMS)


def test_ndcg_is_trec_evals_and_paired(
    task: Retrieval, sought: Sought, queries: FloatArray, documents: FloatArray
) -> None:
    scores = by_form(sought, queries, documents)
    ndcg = 100 * retrieval_metrics(task, queries, documents)["ndcg_at_10"].mean()
    whole, binary = scores["float32"].ndcg, scores["binary"].ndcg
    assert whole is not None
    assert binary is not None
    assert whole.reference == whole.artifact == pytest.approx(ndcg)
    assert whole.delta_ci95 == (0.0, 0.0)
    assert binary.reference == pytest.approx(ndcg)
    assert binary.delta < 0
    assert binary.delta_ci95[0] < binary.delta < binary.delta_ci95[1]


def test_a_models_own_error_counts(
    sought: Sought, queries: FloatArray, documents: FloatArray
) -> None:
    noise = np.random.default_rng(5).normal(size=documents.shape).astype(np.float32)
    worse = by_form(sought, queries, unit(documents + 0.05 * noise))
    best = search_reference(sought)
    assert best is not None
    for before in best.forms:
        assert worse[before.form].recall < before.recall or before.form == "first_32"
    assert worse["float32"].recall < 0.9
    assert search_reference(None) is None


def test_texts_among_themselves_do_not_find_themselves(
    documents: FloatArray, ranges: FloatArray
) -> None:
    texts = DOCUMENTS[:40]
    some = documents[:40]
    sought = seek(texts, texts, some, some, task=None, ranges=ranges, matryoshka=True)
    assert all(i not in found and len(found) == 10 for i, found in enumerate(sought.exact))
    scores = measure_search(sought, some, some)
    assert scores.among_themselves
    assert scores.matryoshka
    assert scores.forms[0].recall == 1
    assert all(score.ndcg is None for score in scores.forms)


def test_int8_dot_compares_as_it_is_and_int8_does_not(
    queries: FloatArray, documents: FloatArray, ranges: FloatArray
) -> None:
    """What an index does with levels; dimensions of other ranges and a shift show it."""
    skewed = np.linspace(0.4, 1.6, DIM, dtype=np.float32)
    shift = np.linspace(-0.1, 0.2, DIM, dtype=np.float32)
    q, d = queries * skewed + shift, documents * skewed + shift
    own = np.stack((d.min(axis=0), d.max(axis=0)))
    found = {}
    for precision in ("int8", "int8_dot"):
        a, b = (quantize_embeddings(v, precision, own).astype(np.float32) for v in (q, d))
        found[precision] = plain_recall(q @ d.T, a @ b.T)
    assert found["int8_dot"] > 0.95
    assert found["int8"] < 0.8


def test_a_gate_holds_a_form_to_its_recall() -> None:
    config = GatesConfig(search=SearchGatesConfig(recall_at_10={"int8": 0.97, "binary": None}))
    evidence = Evidence(
        cosine_mean=1.0,
        cosine_p1=None,
        tasks={},
        finite=1.0,
        nonzero=1.0,
        invariance={},
        speed=None,
        published=None,
        search_recall={"int8": 0.96, "binary": 0.5, "first_64": 0.4},
    )
    (gate,) = apply_gates(evidence, NumericType.fp16, config)
    assert gate.name == "search.recall_at_10.int8"
    assert gate.setting == "validate.gates.search.recall_at_10.int8"
    assert not gate.passed


def test_gates_name_forms() -> None:
    gates = GatesConfig(search=SearchGatesConfig(recall_at_10={"int8": 0.97}))
    check_gates(gates)
    wrong = GatesConfig(search=SearchGatesConfig(recall_at_10={"int4": 0.97}))
    with pytest.raises(ConfigError, match=r"recall_at_10.int4: no such vectors; choose one of flo"):
        check_gates(wrong)
