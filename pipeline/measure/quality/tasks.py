"""Score pairs, retrieval and clusterings with the vectors of reference and artifact alike."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from pipeline.measure.quality.bootstrap import IndexArray, Interval, interval, mean_interval
from pipeline.measure.quality.clusters import v_measures
from pipeline.measure.quality.correlation import resampled_spearman, spearman
from pipeline.measure.quality.precision import average_precision, resampled_precision
from pipeline.measure.quality.retrieval import retrieval_metrics
from pipeline.text.labelled import Clustering, Retrieval, ScoredPairs, Task
from pipeline.vectors import DoubleArray, FloatArray, unit

Values = Mapping[str, DoubleArray]


class Encode(Protocol):
    """Texts to vectors, ``[n, dim]``, with the first prompt named that the model has."""

    def __call__(self, texts: Sequence[str], prompts: Sequence[str] = (), /) -> FloatArray:
        """Encode the texts."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricScores:
    """A metric (0 to 100) by reference and artifact, and the interval of their difference."""

    reference: float
    artifact: float
    delta_ci95: Interval

    @property
    def delta(self) -> float:
        """What the artifact gains; negative where it loses."""
        return self.artifact - self.reference


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskScores:
    """A task's metrics over ``n`` pairs, queries that have a relevant document, or clusterings.

    ``metric`` names the main one among ``metrics``.
    """

    metric: str
    n: int
    metrics: Mapping[str, MetricScores]

    @property
    def main(self) -> MetricScores:
        """The scores by ``metric``."""
        return self.metrics[self.metric]


def task_metric(task: Task) -> str:
    """Return the name of the task's main metric."""
    return task.metric


def measure_task(task: Task, encode: Encode) -> Values:
    """Return what the task's metrics are made of, by metric.

    Scored pairs: each pair's cosine. Retrieval: each query's value, 0 to 1, of the queries that
    have a relevant document. Clustering: each experiment's V-measure.
    """
    if isinstance(task, Clustering):
        return {task.metric: v_measures(task, encode(task.texts, task.prompts))}
    if isinstance(task, Retrieval):
        queries = encode(task.queries, task.query_prompts)
        return retrieval_metrics(task, queries, encode(task.documents, task.document_prompts))
    texts = list(dict.fromkeys(text for pair in task.pairs for text in pair))
    index = {text: i for i, text in enumerate(texts)}
    vectors = unit(encode(texts, task.prompts)).astype(np.float64)
    left = vectors[[index[a] for a, _ in task.pairs]]
    right = vectors[[index[b] for _, b in task.pairs]]
    return {task.metric: (left * right).sum(axis=1)}


def score(task: Task, encode: Encode) -> float:
    """Return the task's main metric, 0 to 100, by cosine similarity."""
    metric = task_metric(task)
    return _summary(task, measure_task(task, encode)[metric])


def compare_task(task: Task, reference: Values, artifact: Values) -> TaskScores:
    """Return every metric by both sides.

    The interval of a difference is a paired bootstrap: a resample takes the same queries or pairs
    of reference and artifact, so what is hard for both does not widen it. Of clusterings it draws
    experiments.
    """
    return TaskScores(
        metric=task_metric(task),
        n=len(next(iter(reference.values()))),
        metrics={
            name: MetricScores(
                reference=_summary(task, reference[name]),
                artifact=_summary(task, artifact[name]),
                delta_ci95=_delta_interval(task, reference[name], artifact[name]),
            )
            for name in reference
        },
    )


def _summary(task: Task, values: DoubleArray) -> float:
    if isinstance(task, ScoredPairs):
        summarize = average_precision if task.metric == "cosine_ap" else spearman
        return 100 * summarize(values, np.array(task.scores))
    return 100 * float(values.mean())


def _delta_interval(task: Task, reference: DoubleArray, artifact: DoubleArray) -> Interval:
    if not isinstance(task, ScoredPairs):
        return mean_interval(100 * (artifact - reference))
    scores = np.array(task.scores)
    resample = resampled_precision if task.metric == "cosine_ap" else resampled_spearman

    def delta(drawn: IndexArray) -> DoubleArray:
        before, after = resample((reference, artifact), scores, drawn)
        return 100 * (after - before)

    return interval(delta, len(scores))
