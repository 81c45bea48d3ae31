"""Draw the experiments of a clustering task as mteb draws them.

Which texts, how often and from which seed: https://github.com/embeddings-benchmark/mteb, read at
2.26. The task's own generator draws, so its scores are those that mteb gives the same vectors.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from pipeline.text.labelled import Clustering, Experiment

_LEGACY_BATCH = 500
"""Of mini-batch k-means, in mteb's evaluator of its older clustering tasks."""


def make_clustering(task: Any, rows: Any, prompts: tuple[str, ...]) -> Clustering:
    """Make experiments of clustering; mteb's older tasks have one a row, with its texts."""
    column, labels = task.input_column_name, task.label_column_name
    if hasattr(task, "max_documents_per_cluster"):
        rows = rows.select(_embedded(task, len(rows)))
        texts, size = list(rows[column]), task.k_mean_batch_size
        experiments = list(_drawn(task, rows[labels]))
    else:
        texts, experiments, size = [], [], _LEGACY_BATCH
        for row in rows:
            at = range(len(texts), len(texts) + len(row[column]))
            experiments.append(_experiment(at, np.array(row[labels])))
            texts += row[column]
    return Clustering(
        name=task.metadata.name,
        texts=tuple(texts),
        experiments=tuple(experiments),
        batch_size=size,
        seed=task.seed,
        prompts=prompts,
    )


def _embedded(task: Any, count: int) -> Sequence[int]:
    """Return the rows that mteb embeds: some of many, drawn by the task's own generator."""
    most: int | None = task.max_document_to_embed
    if task.max_fraction_of_documents_to_embed is not None:
        most = int(task.max_fraction_of_documents_to_embed * count)
    if most is None:
        return range(count)
    return list(task.rng_state.sample(range(count), k=min(count, most)))


def _drawn(task: Any, labels: Sequence[Any]) -> Iterator[Experiment]:
    """Yield mteb's experiments: texts drawn with replacement, for each level of labels."""
    levels = [label if isinstance(label, list) else [label] for label in labels]
    depth = max(map(len, levels))
    for level in range(depth if task.max_depth is None else min(depth, task.max_depth)):
        known = np.array([label[level] if len(label) > level else -1 for label in levels])
        valid = [i for i, label in enumerate(known) if label != -1]
        for _ in range(task.n_clusters):
            drawn = task.rng_state.choices(range(len(valid)), k=task.max_documents_per_cluster)
            yield _experiment([valid[i] for i in drawn], known[valid], drawn)


def _experiment(
    texts: Sequence[int], labels: Any, drawn: Sequence[int] | None = None
) -> Experiment:
    """Number the labels; those that no text was drawn of count as clusters too, as in mteb."""
    different, codes = np.unique(labels, return_inverse=True)
    chosen = codes if drawn is None else codes[list(drawn)]
    return Experiment(texts=texts, labels=chosen.tolist(), clusters=len(different))
