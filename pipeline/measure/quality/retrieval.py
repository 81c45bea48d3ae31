"""Score retrieval as trec_eval does, through its Python binding pytrec_eval-terrier."""

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from pipeline.text.datasets import Retrieval
from pipeline.vectors import FloatArray, unit

DEPTH = 10
"""Documents that are ranked for a query: no metric looks further."""
_QUERIES = 256
"""Queries at once: the similarity of all with all documents may not fit in memory."""

_TREC = {"ndcg_at_10": "ndcg_cut_10", "recall_at_10": "recall_10", "mrr_at_10": "recip_rank"}


def retrieval_metrics(
    task: Retrieval, queries: FloatArray, documents: FloatArray
) -> dict[str, npt.NDArray[np.float64]]:
    """Return nDCG@10, recall@10 and MRR@10, 0 to 1, of each query with a relevant document.

    Gains of nDCG are linear; recall is the share of all relevant documents, also where there are
    more than ten. Values are in the order of ``task.queries``, ``[queries with relevant]``.
    """
    judged = [i for i, relevant in enumerate(task.relevant) if relevant]
    return score_found(
        task, dict(zip(judged, ranked(task, judged, queries, documents), strict=True))
    )


def score_found(
    task: Retrieval, by_query: Mapping[int, Sequence[int]]
) -> dict[str, npt.NDArray[np.float64]]:
    """Return the same of documents that were found, best first, by index of a judged query.

    https://github.com/usnistgov/trec_eval, https://github.com/terrierteam/pytrec_eval
    """
    from pytrec_eval import RelevanceEvaluator

    judged = list(by_query)
    qrels = {str(i): {str(d): gain for d, gain in task.relevant[i].items()} for i in judged}
    run = {
        str(i): {str(document): float(DEPTH - rank) for rank, document in enumerate(found)}
        for i, found in by_query.items()
    }
    values = RelevanceEvaluator(qrels, {"ndcg_cut.10", "recall.10", "recip_rank"}).evaluate(run)
    return {
        name: np.array([values[str(i)][measure] for i in judged]) for name, measure in _TREC.items()
    }


def ranked(
    task: Retrieval, indices: list[int], queries: FloatArray, documents: FloatArray
) -> list[list[int]]:
    """Return the ``DEPTH`` documents of highest cosine to each query of ``indices``, best first.

    Of equals the one that comes first in the collection is ranked first: reference and artifact
    break ties alike. A query that is a document too (``exclude_self``) does not find itself.
    """
    unit_documents = unit(documents).T
    result = []
    for start in range(0, len(indices), _QUERIES):
        block = indices[start : start + _QUERIES]
        for i, row in zip(block, queries[block] @ unit_documents, strict=True):
            if task.exclude_self:
                row[i] = -np.inf
            result.append(top(row, min(DEPTH, len(row) - task.exclude_self)))
    return result


def top(row: FloatArray, count: int) -> list[int]:
    """Return the indices of the ``count`` highest values, ties in order of index."""
    least = np.partition(row, len(row) - count)[len(row) - count]
    candidates = np.flatnonzero(row >= least)
    order = np.argsort(-row[candidates], kind="stable")[:count]
    found: list[int] = candidates[order].tolist()
    return found
