"""Tasks of mteb over a few of the sample's texts: what it would fetch is made here."""

import random
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from pipeline.config import DatasetConfig, DatasetFormat
from pipeline.text.datasets import load_dataset

QUERIES, DOCUMENTS, CANDIDATES = 14, 60, 15
KINDS = ("STS", "PairClassification", "Retrieval", "Reranking", "Clustering", "ClusteringLegacy")
MAIN = {
    "Clustering": "v_measure",
    "ClusteringLegacy": "v_measure",
    "STS": "cosine_spearman",
    "PairClassification": "max_ap",
    "Retrieval": "ndcg_at_10",
    "Reranking": "map_at_1000",
}


@contextmanager
def registered(task: type[Any]) -> Iterator[str]:
    """Have mteb know a task by its name for a while."""
    import mteb  # noqa: F401  the module below is one of its own

    registry = sys.modules["mteb.get_tasks"]._TASKS_REGISTRY
    name = task.metadata.name
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(registry, name, task)
        yield name


def make_task(kind: str, **more: Any) -> type[Any]:
    """Return a class of mteb's that loads texts of the sample, with ``more`` attributes."""
    from mteb import abstasks
    from mteb.abstasks.task_metadata import TaskMetadata

    metadata: Any = TaskMetadata(
        name=f"Tiny{kind}",
        description="Texts of the sample.",
        dataset={"path": "nobody/tiny", "revision": "0" * 40},
        type=kind.removesuffix("Legacy"),
        eval_splits=["test"],
        eval_langs=["eng-Latn"],
        main_score=MAIN[kind],
    )
    base = getattr(abstasks, f"AbsTask{'Retrieval' if kind == 'Reranking' else kind}")
    if kind == "Clustering":
        more = {"max_fraction_of_documents_to_embed": 0.9, "max_documents_per_cluster": 40} | more

    def load_data(self: Any, *_: Any, **__: Any) -> None:
        self.dataset = {"default": {"test": _rows(kind)}}
        self.data_loaded = True

    return type(metadata.name, (base,), {"metadata": metadata, "load_data": load_data, **more})


def _rows(kind: str) -> Any:
    from datasets import Dataset

    draw = random.Random(0)
    config = DatasetConfig(name="sample", format=DatasetFormat.sample)
    texts = draw.sample(load_dataset(config).evaluation, QUERIES + DOCUMENTS)
    if kind in ("STS", "PairClassification"):
        first, second = texts[:DOCUMENTS], texts[-DOCUMENTS:]
        if kind == "STS":
            scores = {"score": [draw.uniform(0, 5) for _ in first]}
        else:
            scores = {"labels": [draw.randint(0, 1) for _ in first]}
        return Dataset.from_dict({"sentence1": first, "sentence2": second, **scores})
    if kind.startswith("Clustering"):
        labels = [draw.choice("abcd") for _ in texts]
        if kind == "Clustering":
            return Dataset.from_dict({"sentences": texts, "labels": labels})
        cut = len(texts) // 2
        halves = {"sentences": texts, "labels": labels}
        return Dataset.from_dict({k: [of[:cut], of[cut:]] for k, of in halves.items()})
    queries = [f"q{i}" for i in range(QUERIES)]
    documents = [f"d{i}" for i in range(DOCUMENTS)]
    ranked = {query: draw.sample(documents, CANDIDATES) for query in queries}
    return {
        "corpus": Dataset.from_dict(
            {
                "id": documents,
                "title": ["A title", ""] * (DOCUMENTS // 2),
                "text": texts[QUERIES:],
            }
        ),
        "queries": Dataset.from_dict({"id": queries, "text": texts[:QUERIES]}),
        "relevant_docs": {
            query: {key: draw.randint(0, 2) for key in ranked[query][:5]} | {ranked[query][5]: 1}
            for query in queries
        },
        "top_ranked": ranked if kind == "Reranking" else None,
    }
