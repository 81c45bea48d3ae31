"""mteb itself scores a bundle, and this project's figures are its figures."""

from pathlib import Path
from typing import Any

import pytest
from mteb_samples import KINDS, make_task, registered
from own_path import Both, make_both
from tokenized import Settings

from pipeline.config import DatasetConfig, DatasetFormat
from pipeline.measure.quality.quality import cached
from pipeline.measure.quality.tasks import compare_task, measure_task
from pipeline.runtime.sentence_transformer import as_sentence_transformer
from pipeline.text.datasets import load_dataset

pytestmark = [  # of what mteb itself calls
    pytest.mark.filterwarnings("ignore:The fill_missing parameter:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:The `get_sentence_embedding_dimension`:FutureWarning"),
]

PROMPTS = {"query": "the question of a text: ", "document": "a document: ", "STS": "as alike as "}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Both, Path]:
    """A tiny model with prompts: its encoder and Sentence Transformer, and its bundle."""
    pytest.importorskip("mteb", reason="mteb is not installed")
    root = tmp_path_factory.mktemp("mteb")
    return make_both(Settings(kind="pieces", saved={"prompts": PROMPTS}), root), root / "bundle"


def scores_of(model: Any, task: Any) -> dict[str, float]:
    """Return what mteb says of a model."""
    import mteb

    found = mteb.evaluate(
        model,
        task,
        cache=None,
        show_progress_bar=False,
        encode_kwargs={"batch_size": 8, "show_progress_bar": False},
    )
    return {k: v for k, v in found.task_results[0].scores["test"][0].items() if v is not None}


@pytest.mark.parametrize("kind", KINDS)
def test_a_bundle_is_a_model_of_mteb_with_its_prompts_and_scores_alike(
    kind: str, made: tuple[Both, Path]
) -> None:
    (both, bundle), theirs = made, make_task(kind)
    with registered(theirs) as name:
        dataset = load_dataset(DatasetConfig(name="mteb", format=DatasetFormat.mteb, task=name))
    (task,) = dataset.tasks
    ours = measure_task(task, cached(both.ours, 8))
    seen = compare_task(task, ours, ours).main.artifact
    metric = {"STS": "cosine_spearman", "PairClassification": "cosine_ap"}.get(kind, task.metric)
    by_bundle = scores_of(as_sentence_transformer(bundle, "onnxruntime"), theirs())
    by_torch = scores_of(both.theirs, theirs())
    assert 100 * by_bundle[metric] == pytest.approx(seen, abs=0.01)
    assert 100 * by_torch[metric] == pytest.approx(seen, abs=0.01)

    both.ours.prompts.clear()
    try:
        bare = measure_task(task, cached(both.ours, 8))
    finally:
        both.ours.prompts.update(PROMPTS)
    same = all((ours[name] == bare[name]).all() for name in ours)
    assert same == (kind not in ("STS", "Retrieval", "Reranking"))  # it has no prompt for others
