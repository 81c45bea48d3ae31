from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest

from pipeline.measure.quality import retrieval
from pipeline.measure.quality.retrieval import ranked, retrieval_metrics
from pipeline.text.labelled import Retrieval

FloatArray = npt.NDArray[np.float32]


def task(relevant: Sequence[dict[int, int]], documents: int, *, same: bool = False) -> Retrieval:
    texts = tuple(f"d{i}" for i in range(documents))
    return Retrieval(
        name="t",
        metric="ndcg_at_10",
        queries=texts if same else tuple(f"q{i}" for i in range(len(relevant))),
        documents=texts,
        relevant=tuple(relevant),
        exclude_self=same,
    )


def at_degrees(*degrees: float) -> FloatArray:
    radians = np.radians(degrees)
    return np.stack([np.cos(radians), np.sin(radians)], axis=1).astype(np.float32)


LINE = at_degrees(*(3.0 * i for i in range(20)))  # nearest to 0 degrees first
ZERO = at_degrees(0.0)


def test_every_metric_of_one_query_worked_by_hand() -> None:
    # Gains 2 at rank 3 and 1 at rank 5; one relevant document at rank 15, beyond all metrics.
    found = retrieval_metrics(task([{2: 2, 4: 1, 14: 1}], 20), ZERO, LINE)
    ideal = 2 / np.log2(2) + 1 / np.log2(3) + 1 / np.log2(4)
    assert found["ndcg_at_10"] == pytest.approx([(2 / np.log2(4) + 1 / np.log2(6)) / ideal])
    assert found["recall_at_10"] == pytest.approx([2 / 3])
    assert found["mrr_at_10"] == pytest.approx([1 / 3])


def test_recall_counts_all_relevant_documents_also_beyond_ten() -> None:
    found = retrieval_metrics(task([dict.fromkeys(range(15), 1)], 20), ZERO, LINE)
    assert found["recall_at_10"] == pytest.approx([10 / 15])
    assert found["ndcg_at_10"] == pytest.approx([1])


def test_one_relevant_document_at_rank_ten_counts_and_at_eleven_does_not() -> None:
    found = retrieval_metrics(task([{9: 1}, {10: 1}], 20), np.repeat(ZERO, 2, axis=0), LINE)
    assert found["ndcg_at_10"] == pytest.approx([1 / np.log2(11), 0])
    assert found["recall_at_10"].tolist() == [1, 0]
    assert found["mrr_at_10"] == pytest.approx([0.1, 0])


def test_queries_without_a_relevant_document_are_left_out_and_the_rest_keep_their_order() -> None:
    queries = at_degrees(0, 0, 0, 0)
    found = retrieval_metrics(task([{}, {1: 1}, {}, {0: 1}], 20), queries, LINE)
    assert found["mrr_at_10"] == pytest.approx([0.5, 1])


def test_more_than_nine_queries_keep_their_order() -> None:
    relevant = [{i % 10: 1} for i in range(25)]
    found = retrieval_metrics(task(relevant, 20), np.repeat(ZERO, 25, axis=0), LINE)
    assert found["mrr_at_10"] == pytest.approx([1 / (i % 10 + 1) for i in range(25)])


def test_fewer_than_ten_documents_are_all_ranked() -> None:
    few = task([{2: 1}], 3)
    assert ranked(few, [0], ZERO, LINE[:3]) == [[0, 1, 2]]
    found = retrieval_metrics(few, ZERO, LINE[:3])
    assert found["mrr_at_10"] == pytest.approx([1 / 3])
    assert found["recall_at_10"].tolist() == [1]


def test_a_query_that_is_a_document_does_not_find_itself() -> None:
    same = task([{1: 1}, {0: 1}, {0: 1}], 3, same=True)
    assert ranked(same, [0, 1, 2], LINE[:3], LINE[:3]) == [[1, 2], [0, 2], [1, 0]]
    found = retrieval_metrics(same, LINE[:3], LINE[:3])
    assert found["mrr_at_10"] == pytest.approx([1, 1, 0.5])


def test_equal_documents_are_ranked_in_the_order_of_the_collection() -> None:
    documents = at_degrees(5, 0, 5, 5, 5, 0, 5, 5, 5, 5, 5, 5, 5, 0, 5)
    (seen,) = ranked(task([{0: 1}], 15), [0], ZERO, documents)
    assert seen == [1, 5, 13, 0, 2, 3, 4, 6, 7, 8]


def test_rank_goes_by_angle_not_by_length() -> None:
    longer = LINE * np.linspace(1, 9, 20, dtype=np.float32)[:, None]
    assert ranked(task([{0: 1}], 20), [0], 7 * ZERO, longer) == [list(range(10))]


def test_blocks_of_queries_find_what_all_at_once_find(monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(2)
    documents = random.normal(size=(30, 8)).astype(np.float32)
    same = task([{(i + 1) % 30: 1} for i in range(30)], 30, same=True)
    whole = ranked(same, list(range(30)), documents, documents)
    monkeypatch.setattr(retrieval, "_QUERIES", 7)
    assert ranked(same, list(range(30)), documents, documents) == whole
    assert all(i not in found for i, found in enumerate(whole))


def test_a_task_may_be_judged_by_more_documents_than_ten() -> None:
    deep = replace(task([{3: 1, 14: 1}], 20), metric="map_at_1000")
    found = retrieval_metrics(deep, ZERO, LINE)
    assert found["map_at_1000"] == pytest.approx([(1 / 4 + 2 / 15) / 2])
    assert found["mrr_at_10"] == pytest.approx([1 / 4])
    hit = retrieval_metrics(replace(deep, metric="hit_rate_at_3"), ZERO, LINE)
    assert hit["hit_rate_at_3"] == pytest.approx([0])
    late = retrieval_metrics(replace(task([{14: 1}], 20), metric="recall_at_20"), ZERO, LINE)
    assert late["recall_at_20"] == pytest.approx([1])
    assert late["mrr_at_10"] == pytest.approx([0])


def test_where_a_query_has_candidates_no_other_document_is_ranked() -> None:
    few = replace(task([{14: 1}, {2: 1}], 20), candidates=([17, 14, 9], []))
    assert ranked(few, [0, 1], np.repeat(ZERO, 2, axis=0), LINE) == [[9, 14, 17], []]
    assert retrieval_metrics(few, np.repeat(ZERO, 2, axis=0), LINE)["mrr_at_10"] == (
        pytest.approx([1 / 2, 0])
    )


def test_a_query_does_not_find_its_own_document() -> None:
    assert ranked(replace(task([{1: 1}], 3), own={0: 0}), [0], ZERO, LINE[:3]) == [[1, 2]]
