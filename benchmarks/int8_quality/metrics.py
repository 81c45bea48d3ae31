"""Every row's numbers, from its embeddings and the reference's."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.int8_quality.texts import Texts
from pipeline.measure.quality.agreement import agreement
from pipeline.measure.quality.tasks import score

FloatArray = npt.NDArray[np.float32]


class Lookup:
    """Embeddings by text, so that metrics can ask for any subset in any order."""

    def __init__(self, texts: Sequence[str], vectors: FloatArray) -> None:
        """Pair texts with the rows of ``vectors``.

        Raises:
            ValueError: not one vector a text, or a value that is NaN or infinite.
        """
        if len(texts) != len(vectors):
            raise ValueError(f"{len(vectors)} embeddings for {len(texts)} texts")
        if not np.isfinite(vectors).all():
            raise ValueError("embeddings hold NaN or infinite values")
        self._row = {text: i for i, text in enumerate(texts)}
        self._vectors = vectors

    def __call__(self, texts: Sequence[str], prompts: Sequence[str] = ()) -> FloatArray:  # noqa: ARG002  made before
        """Return the embeddings of ``texts``, ``[n, dim]``."""
        return self._vectors[[self._row[text] for text in texts]]


def measure(texts: Texts, reference: FloatArray, vectors: FloatArray) -> dict[str, Any]:
    """Compare embeddings of ``texts.unique`` with the reference's, ``[n, dim]`` each.

    Returns:
        ``stsb`` and ``nfcorpus``: agreement on sentences and documents; ``spearman``; and
        ``ndcg_at_10``, None where it was skipped. Task scores are 0 to 100.
    """
    expected, seen = Lookup(texts.unique, reference), Lookup(texts.unique, vectors)
    return {
        "stsb": _agreement(expected(texts.sentences), seen(texts.sentences)),
        "nfcorpus": _agreement(expected(texts.documents), seen(texts.documents)),
        "spearman": score(texts.similarity, seen),
        "ndcg_at_10": None if texts.retrieval is None else score(texts.retrieval, seen),
    }


def _agreement(reference: FloatArray, vectors: FloatArray) -> dict[str, Any]:
    found = agreement(reference, vectors)
    return {
        "n": found.n,
        "mean": found.mean,
        "p1": found.p1,
        "min": found.min,
        "neighbor_overlap_at_10": found.neighbor_overlap[10],
    }
