"""Score retrieval as trec_eval does, through its Python binding pytrec_eval-terrier."""

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from pipeline.text.labelled import Retrieval
from pipeline.vectors import FloatArray, unit

DEPTH = 10
"""Documents that are ranked for a query: but for a task's own, no metric looks further."""
_QUERIES = 256
"""Queries at once: the similarity of all with all documents may not fit in memory."""

_TREC = {"ndcg_at_10": "ndcg_cut_10", "recall_at_10": "recall_10", "mrr_at_10": "recip_rank"}
_FAMILIES = {"ndcg": "ndcg_cut", "recall": "recall", "map": "map_cut", "hit_rate": "success"}


def retrieval_metrics(
    task: Retrieval, queries: FloatArray, documents: FloatArray
) -> dict[str, npt.NDArray[np.float64]]:
    """Return nDCG@10, recall@10, MRR@10 and ``task.metric`` of each query with a relevant document.

    All are 0 to 1. The metric may be ndcg, recall, map or hit_rate, each ``_at_`` a number.
    Gains of nDCG are linear; recall is the share of all relevant documents, also where there are
    more than ten. Values are in the order of ``task.queries``, ``[queries with relevant]``.
    """
    judged = [i for i, relevant in enumerate(task.relevant) if relevant]
    family, _, cut = task.metric.partition("_at_")
    depth = DEPTH if task.metric in _TREC else max(DEPTH, int(cut))
    found = dict(zip(judged, ranked(task, judged, queries, documents, depth), strict=True))
    values = score_found(task, {i: best[:DEPTH] for i, best in found.items()})
    if task.metric in values:
        return values
    measure = _FAMILIES[family]
    own = _evaluate(task, found, {f"{measure}.{cut}"})
    return values | {task.metric: np.array([own[str(i)][f"{measure}_{cut}"] for i in judged])}


def score_found(
    task: Retrieval, by_query: Mapping[int, Sequence[int]]
) -> dict[str, npt.NDArray[np.float64]]:
    """Return the same of documents that were found, best first, by index of a judged query.

    https://github.com/usnistgov/trec_eval, https://github.com/terrierteam/pytrec_eval
    """
    values = _evaluate(task, by_query, {"ndcg_cut.10", "recall.10", "recip_rank"})
    return {
        name: np.array([values[str(i)][measure] for i in by_query])
        for name, measure in _TREC.items()
    }


def _evaluate(
    task: Retrieval, by_query: Mapping[int, Sequence[int]], measures: set[str]
) -> Mapping[str, Mapping[str, float]]:
    """Return each query's values as trec_eval names them; what is found first scores highest."""
    from pytrec_eval import RelevanceEvaluator

    qrels = {str(i): {str(d): gain for d, gain in task.relevant[i].items()} for i in by_query}
    run = {
        str(i): {str(document): float(len(found) - rank) for rank, document in enumerate(found)}
        for i, found in by_query.items()
    }
    evaluated: Mapping[str, Mapping[str, float]] = RelevanceEvaluator(qrels, measures).evaluate(run)
    return evaluated


def ranked(
    task: Retrieval,
    indices: list[int],
    queries: FloatArray,
    documents: FloatArray,
    depth: int = DEPTH,
) -> list[list[int]]:
    """Return the ``depth`` documents of highest cosine to each query of ``indices``, best first.

    Of equals the one that comes first in the collection is ranked first: reference and artifact
    break ties alike. A query that is a document too does not find itself; where a task has
    ``candidates`` only those are ranked.
    """
    unit_documents = unit(documents).T
    result = []
    for start in range(0, len(indices), _QUERIES):
        block = indices[start : start + _QUERIES]
        for i, row in zip(block, queries[block] @ unit_documents, strict=True):
            hidden = i if task.exclude_self else task.own.get(i)
            among = None if task.candidates is None else np.unique(task.candidates[i])
            if among is not None:
                among = among[among != hidden]
                best = top(row[among], min(depth, len(among))) if len(among) else []
                result.append(among[best].tolist())
                continue
            if hidden is not None:
                row[hidden] = -np.inf
            result.append(top(row, min(depth, len(row) - (hidden is not None))))
    return result


def top(row: FloatArray, count: int) -> list[int]:
    """Return the indices of the ``count`` highest values, ties in order of index."""
    least = np.partition(row, len(row) - count)[len(row) - count]
    candidates = np.flatnonzero(row >= least)
    order = np.argsort(-row[candidates], kind="stable")[:count]
    found: list[int] = candidates[order].tolist()
    return found
