"""dataset=mteb: a task of the benchmark as labelled text."""

import sys
from typing import Any

import pytest
from mteb_samples import CANDIDATES, DOCUMENTS, MAIN, QUERIES, make_task, registered

from pipeline.config import DatasetConfig, DatasetFormat
from pipeline.errors import ConfigError, DatasetError
from pipeline.text.datasets import Dataset, load_dataset
from pipeline.text.labelled import Clustering, Retrieval, ScoredPairs


def load(task: str | None, **settings: Any) -> Dataset:
    return load_dataset(
        DatasetConfig(name="mteb", format=DatasetFormat.mteb, task=task, **settings)
    )


def test_without_mteb_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mteb", None)
    with pytest.raises(ConfigError, match=r"pip install 'sentence-transformer-trt\[mteb\]'"):
        load("STSBenchmark")


def test_a_task_has_to_be_named() -> None:
    with pytest.raises(ConfigError, match=r"dataset\.task is not set"):
        load(None)


@pytest.fixture
def _mteb() -> None:
    """Needs the extra ``mteb``, which ``dev`` leaves out."""
    pytest.importorskip("mteb", reason="mteb is not installed")


@pytest.mark.usefixtures("_mteb")
class TestTasks:
    """What mteb knows."""

    def test_all_of_it_validates_and_the_sample_calibrates(self) -> None:
        with registered(make_task("Retrieval")) as name:
            dataset = load(name)
        (task,) = dataset.tasks
        assert isinstance(task, Retrieval)
        assert (dataset.name, task.name, task.metric) == (name, name, "ndcg_at_10")
        assert (len(task.queries), len(task.documents)) == (QUERIES, DOCUMENTS)
        assert task.documents[0].startswith("A title ")
        assert not task.documents[1].startswith("A title ")
        assert {*task.queries, *task.documents} == {*dataset.evaluation}
        assert len(dataset.calibration) > 500
        assert not {*dataset.calibration} & {*dataset.evaluation}
        assert dataset.kinds[task.queries[0]] == "query"
        assert task.is_search

    def test_judgements_of_nothing_are_no_answers(self) -> None:
        with registered(make_task("Retrieval")) as name:
            (task,) = load(name).tasks
        assert isinstance(task, Retrieval)
        gains = [gain for relevant in task.relevant for gain in relevant.values()]
        assert set(gains) == {1, 2}
        assert len(gains) < 6 * QUERIES

    def test_reranking_ranks_its_candidates_only(self) -> None:
        with registered(make_task("Reranking")) as name:
            (task,) = load(name).tasks
        assert isinstance(task, Retrieval)
        assert task.candidates is not None
        assert [len(c) for c in task.candidates] == [CANDIDATES] * QUERIES
        assert (task.metric, task.is_search) == ("map_at_1000", False)

    def test_clustering_draws_texts_and_keeps_their_labels(self) -> None:
        with registered(make_task("Clustering")) as name:
            (task,) = load(name).tasks
        assert isinstance(task, Clustering)
        assert len(task.texts) == int(0.9 * (QUERIES + DOCUMENTS))
        assert [len(e.texts) for e in task.experiments] == [40] * 10
        assert len({tuple(e.texts) for e in task.experiments}) == 10
        one: dict[int, int] = {}
        for experiment in task.experiments:
            assert experiment.clusters == 4
            for text, label in zip(experiment.texts, experiment.labels, strict=True):
                assert one.setdefault(text, label) == label
        assert (task.batch_size, task.seed, task.metric) == (512, 42, "v_measure")
        assert task.prompts == ("TinyClustering", "Clustering")

    def test_an_older_clustering_has_an_experiment_a_row(self) -> None:
        with registered(make_task("ClusteringLegacy")) as name:
            (task,) = load(name).tasks
        assert isinstance(task, Clustering)
        texts = [i for experiment in task.experiments for i in experiment.texts]
        assert texts == list(range(QUERIES + DOCUMENTS))
        assert len(task.experiments) == 2
        assert task.batch_size == 500

    def test_labels_in_levels_are_experiments_of_each(self) -> None:
        def load_data(self: Any, *_: Any, **__: Any) -> None:
            plain.load_data(self)
            rows = self.dataset["default"]["test"]
            deeper = [[i % 2, i % 3] if i % 5 else [i % 2] for i in range(len(rows))]
            rows = rows.remove_columns("labels").add_column("labels", deeper)
            self.dataset["default"]["test"] = rows

        plain = make_task("Clustering")
        whole = {"max_fraction_of_documents_to_embed": None}
        with registered(make_task("Clustering", load_data=load_data, **whole)) as name:
            (task,) = load(name).tasks
        assert isinstance(task, Clustering)
        assert [e.clusters for e in task.experiments] == [2] * 10 + [3] * 10
        deep = {i for e in task.experiments[10:] for i in e.texts}
        assert all(i % 5 for i in deep)
        for e, divisor in ((task.experiments[0], 2), (task.experiments[10], 3)):
            assert list(e.labels) == [i % divisor for i in e.texts]

    def test_prompts_are_named_as_mteb_does(self) -> None:
        with registered(make_task("Retrieval")) as name:
            (task,) = load(name).tasks
        assert isinstance(task, Retrieval)
        assert task.query_prompts == (
            "TinyRetrieval-query", "TinyRetrieval", "Retrieval-query", "Retrieval", "query"
        )  # fmt: skip
        with registered(make_task("STS")) as name:
            (pairs,) = load(name).tasks
        assert isinstance(pairs, ScoredPairs)
        assert pairs.prompts == ("TinySTS", "STS")

    def test_a_query_of_a_documents_id_does_not_find_it(self) -> None:
        def load_data(self: Any, *_: Any, **__: Any) -> None:
            plain.load_data(self)
            rows = self.dataset["default"]["test"]
            rows["corpus"] = rows["corpus"].map(lambda row: {"id": row["id"].replace("d", "q")})
            rows["relevant_docs"] = {"q3": {"q3": 1, "q4": 1}}

        plain = make_task("Retrieval")
        with registered(make_task("Retrieval", load_data=load_data)) as name:
            assert load(name).tasks[0].own == {}  # type: ignore[union-attr]
        ignoring = make_task("Retrieval", load_data=load_data, ignore_identical_ids=True)
        with registered(ignoring) as name:
            (task,) = load(name).tasks
        assert isinstance(task, Retrieval)
        assert (task.own, task.is_search) == ({0: 3}, False)

    @pytest.mark.parametrize(
        ("given", "named"),
        [("NanoNFCorpus", "NanoNFCorpusRetrieval"), ("STSBenchmark", "STSBenchmark")],
    )
    def test_offline_it_says_what_to_fetch(self, given: str, named: str) -> None:
        with pytest.raises(DatasetError) as caught:
            load(given)
        said = str(caught.value)
        assert said.startswith(f"dataset.task={named}: mteb/")
        assert f"mteb.get_task('{named}').load_data()" in said
        assert "HF_HOME" in said
        assert "\n" not in said

    def test_a_name_that_mteb_does_not_know(self) -> None:
        with pytest.raises(ConfigError, match=r"dataset\.task=STSBenchmrk: .*Did you mean: 'STSB"):
            load("STSBenchmrk")

    @pytest.mark.parametrize("name", ["Banking77Classification", "Core17InstructionRetrieval"])
    def test_other_kinds_are_refused_by_name(self, name: str) -> None:
        with pytest.raises(DatasetError, match=f"{name} is .*; measured here are STS, "):
            load(name)

    def test_another_metric_is_refused(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(MAIN, "Retrieval", "precision_at_1")
        with (
            registered(make_task("Retrieval")) as name,
            pytest.raises(DatasetError, match="is judged by precision_at_1; measured here"),
        ):
            load(name)

    def test_a_task_of_several_languages_asks_for_one(self) -> None:
        with pytest.raises(ConfigError, match=r"dataset\.subset=None: STS22.* has .*en, .*to one"):
            load("STS22.v2")
