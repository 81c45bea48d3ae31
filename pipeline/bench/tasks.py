"""What the vectors are for: scored pairs and retrieval, by reference and artifact alike."""

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from pipeline.datasets import Retrieval, ScoredPairs, Task

FloatArray = npt.NDArray[np.float32]
Encode = Callable[[Sequence[str]], FloatArray]


def task_metric(task: Task) -> str:
    """Return the name of the task's metric."""
    return "spearman" if isinstance(task, ScoredPairs) else task.metric


def score(task: Task, encode: Encode) -> float:
    """Return the task's metric, 0 to 100, by cosine similarity."""
    if isinstance(task, ScoredPairs):
        return _spearman(task, encode)
    similarity = _unit(encode(task.queries)) @ _unit(encode(task.documents)).T
    if task.exclude_self:
        np.fill_diagonal(similarity, -np.inf)
    return _recall(task, similarity) if task.metric == "recall_at_10" else _ndcg(task, similarity)


def _spearman(task: ScoredPairs, encode: Encode) -> float:
    """Spearman correlation of cosine and human score, as STSBenchmark is reported."""
    from scipy.stats import spearmanr

    texts = list(dict.fromkeys(text for pair in task.pairs for text in pair))
    index = {text: i for i, text in enumerate(texts)}
    vectors = _unit(encode(texts))
    left = vectors[[index[a] for a, _ in task.pairs]]
    right = vectors[[index[b] for _, b in task.pairs]]
    return float(spearmanr((left * right).sum(axis=1), task.scores).statistic) * 100


def _recall(task: Retrieval, similarity: FloatArray) -> float:
    """Mean share of a query's relevant documents among its ten nearest."""
    scores = []
    for row, relevant in zip(similarity, task.relevant, strict=True):
        if relevant:
            top = set(np.argsort(-row, kind="stable")[:10].tolist())
            scores.append(len(top & relevant.keys()) / min(10, len(relevant)))
    return float(np.mean(scores)) * 100


def _ndcg(task: Retrieval, similarity: FloatArray) -> float:
    """Mean nDCG@10 with linear gain, as trec_eval and BEIR compute it."""
    from sklearn.metrics import ndcg_score

    gains = np.zeros_like(similarity)
    for row, relevant in zip(gains, task.relevant, strict=True):
        row[list(relevant)] = list(relevant.values())
    return float(ndcg_score(gains, similarity, k=10)) * 100


def _unit(vectors: FloatArray) -> FloatArray:
    unit: FloatArray = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    return unit
