from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest

from pipeline.measure.quality.tasks import Encode, compare_task, measure_task, score, task_metric
from pipeline.text.labelled import Clustering, Experiment, Retrieval, ScoredPairs

FloatArray = npt.NDArray[np.float32]


def at_angles(angles: Mapping[str, float]) -> Encode:
    """Return an encoder of texts to vectors of various lengths at the given degrees."""

    def encode(texts: Sequence[str], prompts: Sequence[str] = ()) -> FloatArray:
        radians = np.radians([angles[text] for text in texts])
        length = np.arange(1, len(texts) + 1)[:, None]
        points = np.stack([np.cos(radians), np.sin(radians)], axis=1)
        return np.asarray(length * points, dtype=np.float32)

    return encode


def retrieval(metric: str, relevant: Sequence[dict[int, int]], documents: int) -> Retrieval:
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


def test_a_query_does_not_find_itself_where_queries_are_documents() -> None:
    texts = tuple(f"d{i}" for i in range(12))
    task = Retrieval(
        name="t",
        metric="recall_at_10",
        queries=texts,
        documents=texts,
        relevant=({10: 1}, {10: 1}, *({},) * 10),
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

    def scaled(texts: Sequence[str], prompts: Sequence[str] = ()) -> FloatArray:
        return encode(texts) * np.float32(1000)

    assert score(task, scaled) == pytest.approx(score(task, encode))


def spearman_task(n: int) -> ScoredPairs:
    return ScoredPairs(
        name="t",
        pairs=tuple((f"a{i}", f"b{i}") for i in range(n)),
        scores=tuple(float(i % 11) for i in range(n)),
    )


def test_pairs_are_compared_by_their_cosines() -> None:
    pairs = (("a", "a"), ("a", "b"), ("a", "c"), ("a", "d"))
    task = ScoredPairs(name="t", pairs=pairs, scores=(5, 3, 4, 1))
    before, after = (
        measure_task(task, at_angles({"a": 0, "b": b, "c": 60, "d": 90})) for b in (30, 70)
    )
    np.testing.assert_allclose(before["spearman"], np.cos(np.radians([0, 30, 60, 90])), atol=1e-6)
    seen = compare_task(task, before, after)
    assert (seen.metric, seen.n, set(seen.metrics)) == ("spearman", 4, {"spearman"})
    assert seen.main.reference == pytest.approx(80)
    assert seen.main.artifact == pytest.approx(100)
    assert seen.main.delta == pytest.approx(20)


def test_retrieval_is_compared_by_three_metrics_on_queries_with_an_answer() -> None:
    task = retrieval("ndcg_at_10", [{0: 1}, {}, {1: 1}], 20)
    near = {"q0": 0.0, "q1": 0.0, "q2": 0.0} | DOCUMENTS
    before, after = (measure_task(task, at_angles(near | {"q2": q2})) for q2 in (0.0, 3.0))
    seen = compare_task(task, before, after)
    assert (seen.metric, seen.n) == ("ndcg_at_10", 2)
    assert set(seen.metrics) == {"ndcg_at_10", "recall_at_10", "mrr_at_10"}
    assert seen.main is seen.metrics["ndcg_at_10"]
    mrr = seen.metrics["mrr_at_10"]
    assert (mrr.reference, mrr.artifact, mrr.delta) == pytest.approx((75, 100, 25))
    assert mrr.delta_ci95 == pytest.approx((0, 50))  # a resample of both queries, twice the same


@pytest.mark.parametrize("kind", ["pairs", "retrieval"])
def test_an_artifact_compared_with_itself_differs_by_exactly_nothing(kind: str) -> None:
    random = np.random.default_rng(0)
    values = {"spearman" if kind == "pairs" else "ndcg_at_10": random.random(40)}
    task = spearman_task(40) if kind == "pairs" else retrieval("ndcg_at_10", [{0: 1}] * 40, 20)
    seen = compare_task(task, values, values)
    assert seen.main.delta == 0
    assert seen.main.delta_ci95 == (0, 0)


def test_what_is_hard_for_both_does_not_widen_the_interval() -> None:
    random = np.random.default_rng(1)
    hard = random.random(300)
    task = retrieval("ndcg_at_10", [{0: 1}] * 300, 20)
    before = {"ndcg_at_10": hard}
    alike = compare_task(task, before, {"ndcg_at_10": hard + 0.01 * random.normal(size=300)})
    other = compare_task(task, before, {"ndcg_at_10": random.permutation(hard)})
    paired, unpaired = (high - low for low, high in (alike.main.delta_ci95, other.main.delta_ci95))
    assert paired == pytest.approx(100 * 2 * 1.96 * 0.01 / np.sqrt(300), rel=0.2)
    assert unpaired > 20 * paired


def test_both_sides_of_a_pair_are_drawn_together() -> None:
    task = spearman_task(300)
    random = np.random.default_rng(1)
    noisy = np.array(task.scores) + 8 * random.normal(size=300)
    before = {"spearman": noisy}
    alike = compare_task(task, before, {"spearman": noisy + 0.05 * random.normal(size=300)})
    low, high = alike.main.delta_ci95
    assert high - low < 1  # of a correlation near 36, whose own interval is about 20 wide
    worse = compare_task(task, before, {"spearman": random.normal(size=300)})
    assert worse.main.delta_ci95[1] < 0


def test_a_collapsed_artifact_scores_nothing_on_pairs_and_is_no_error() -> None:
    task = spearman_task(30)
    whole = {"spearman": np.array(task.scores)}
    seen = compare_task(task, whole, {"spearman": np.full(30, 0.7)})
    assert (seen.main.reference, seen.main.artifact) == pytest.approx((100, 0))
    assert seen.main.delta_ci95 == pytest.approx((-100, -100))


def test_pairs_of_yes_and_no_are_judged_by_average_precision() -> None:
    # Ranked by angle: yes, no, yes, no. Precision at each yes: 1 and 2/3.
    pairs = (("a", "a"), ("a", "b"), ("a", "c"), ("a", "d"))
    task = ScoredPairs(name="t", pairs=pairs, scores=(1, 0, 1, 0), metric="cosine_ap")
    before, after = (
        measure_task(task, at_angles({"a": 0, "b": b, "c": 60, "d": 90})) for b in (30, 70)
    )
    seen = compare_task(task, before, after)
    assert seen.metric == "cosine_ap"
    assert (seen.main.reference, seen.main.artifact) == pytest.approx((100 * 5 / 6, 100))
    assert 0 <= seen.main.delta_ci95[0] < seen.main.delta < seen.main.delta_ci95[1]


def test_each_side_of_a_task_has_its_own_prompts() -> None:
    asked = []

    def encode(texts: Sequence[str], prompts: Sequence[str] = ()) -> FloatArray:
        asked.append(tuple(prompts))
        return np.eye(len(texts), 40, dtype=np.float32)

    task = retrieval("ndcg_at_10", [{0: 1}], 20)
    measure_task(replace(task, query_prompts=("q",), document_prompts=("d",)), encode)
    measure_task(replace(spearman_task(5), prompts=("STS",)), encode)
    assert asked == [("q",), ("d",), ("STS",)]


def clustering(experiments: int) -> Clustering:
    """Texts of three groups, thrice ten; each experiment leaves another two out."""
    left_out = [{i, 29 - i} for i in range(experiments)]
    kept = [[i for i in range(30) if i not in out] for out in left_out]
    return Clustering(
        name="t",
        texts=tuple(f"text {i}" for i in range(30)),
        experiments=tuple(
            Experiment(texts=texts, labels=[i // 10 for i in texts], clusters=3) for texts in kept
        ),
        batch_size=512,
        seed=42,
    )


def test_clusters_that_stand_apart_are_found_and_mixed_ones_are_not() -> None:
    task = clustering(5)
    random = np.random.default_rng(0)
    centers = np.repeat(10 * np.eye(3, 8), 10, axis=0)
    near = (centers + 0.1 * random.normal(size=(30, 8))).astype(np.float32)
    before = measure_task(task, lambda *_: near)
    after = measure_task(task, lambda *_: random.permutation(near))
    seen = compare_task(task, before, after)
    assert (seen.metric, seen.n) == ("v_measure", 5)
    assert seen.main.reference == pytest.approx(100)
    assert seen.main.artifact < 40
    assert seen.main.delta_ci95[0] <= seen.main.delta <= seen.main.delta_ci95[1] < -50


def test_a_collapsed_artifact_finds_no_clusters_and_is_no_error() -> None:
    values = measure_task(clustering(2), lambda texts, *_: np.ones((len(texts), 8), np.float32))
    assert values["v_measure"] == pytest.approx([0, 0])
