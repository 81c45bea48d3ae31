from collections.abc import Callable, Mapping, Sequence

import numpy as np
import numpy.typing as npt
import pytest

from pipeline.bench.tasks import score, task_metric
from pipeline.datasets import Retrieval, ScoredPairs

FloatArray = npt.NDArray[np.float32]


def at_angles(angles: Mapping[str, float]) -> Callable[[Sequence[str]], FloatArray]:
    """Return an encoder of texts to vectors of various lengths at the given degrees."""

    def encode(texts: Sequence[str]) -> FloatArray:
        radians = np.radians([angles[text] for text in texts])
        length = np.arange(1, len(texts) + 1)[:, None]
        points = np.stack([np.cos(radians), np.sin(radians)], axis=1)
        return np.asarray(length * points, dtype=np.float32)

    return encode


def retrieval(metric: str, relevant: Sequence[dict[int, float]], documents: int) -> Retrieval:
    return Retrieval(
        name="t",
        metric=metric,
        queries=tuple(f"q{i}" for i in range(len(relevant))),
        documents=tuple(f"d{i}" for i in range(documents)),
        relevant=tuple(relevant),
    )


DOCUMENTS = {f"d{i}": 3.0 * i for i in range(20)}  # nearest to 0 degrees first


@pytest.mark.parametrize(
    ("scores", "expected"),
    [((5, 4, 3, 1), 100), ((1, 3, 4, 5), -100), ((5, 3, 4, 1), 80)],
)
def test_spearman_of_four_pairs(scores: tuple[float, ...], expected: float) -> None:
    # Angles apart: 0, 30, 60, 90. One swap of neighbours: 1 - 6 * 2 / (4 * 15) = 0.8.
    pairs = (("a", "a"), ("a", "b"), ("a", "c"), ("a", "d"))
    task = ScoredPairs(name="t", pairs=pairs, scores=scores)
    assert task_metric(task) == "spearman"
    assert score(task, at_angles({"a": 0, "b": 30, "c": 60, "d": 90})) == pytest.approx(expected)


def test_recall_is_the_share_of_relevant_documents_in_the_first_ten() -> None:
    task = retrieval("recall_at_10", [{0: 1, 9: 1, 10: 1, 15: 1}, {9: 1}, {}], 20)
    assert task_metric(task) == "recall_at_10"
    angles = {"q0": 0.0, "q1": 0.0, "q2": 0.0} | DOCUMENTS
    assert score(task, at_angles(angles)) == pytest.approx(100 * (2 / 4 + 1) / 2)


def test_recall_is_full_when_the_first_ten_are_all_relevant() -> None:
    task = retrieval("recall_at_10", [dict.fromkeys(range(15), 1.0)], 20)
    assert score(task, at_angles({"q0": 0} | DOCUMENTS)) == pytest.approx(100)


def test_a_query_does_not_find_itself_where_queries_are_documents() -> None:
    texts = tuple(f"d{i}" for i in range(12))
    task = Retrieval(
        name="t",
        metric="recall_at_10",
        queries=texts,
        documents=texts,
        relevant=({10: 1.0}, {10: 1.0}, *({},) * 10),
        exclude_self=True,
    )
    # d10 is the tenth other text from d0 and from d1, and the eleventh if they count themselves.
    assert score(task, at_angles(DOCUMENTS)) == pytest.approx(100)


def test_ndcg_worked_by_hand() -> None:
    # Gains 2 at rank 2 and 1 at rank 3, one relevant document beyond rank ten.
    task = retrieval("ndcg_at_10", [{1: 2, 2: 1, 14: 1}], 20)
    ideal = 2 / np.log2(2) + 1 / np.log2(3) + 1 / np.log2(4)
    found = 2 / np.log2(3) + 1 / np.log2(4)
    assert task_metric(task) == "ndcg_at_10"
    assert score(task, at_angles({"q0": 0} | DOCUMENTS)) == pytest.approx(100 * found / ideal)


def test_ndcg_is_the_mean_over_queries() -> None:
    task = retrieval("ndcg_at_10", [{0: 1}, {15: 1}], 20)
    assert score(task, at_angles({"q0": 0, "q1": 0} | DOCUMENTS)) == pytest.approx(50)


def test_scores_do_not_depend_on_vector_length() -> None:
    task = retrieval("ndcg_at_10", [{0: 1, 3: 2}], 20)
    encode = at_angles({"q0": 40} | DOCUMENTS)
    unscaled = score(task, encode)
    assert score(task, lambda texts: encode(texts) * np.float32(1000)) == pytest.approx(unscaled)
