"""How far an artifact's embeddings are from the reference's."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True)
class Agreement:
    """Cosine of each sentence's two embeddings, and the neighbours they keep.

    ``neighbor_overlap_at_10`` is the mean share of a sentence's ten nearest sentences (by cosine,
    itself excluded) that reference and artifact have in common; None below twelve sentences.
    """

    n: int
    mean: float
    p1: float
    min: float
    neighbor_overlap_at_10: float | None


def row_cosines(a: FloatArray, b: FloatArray) -> npt.NDArray[np.float64]:
    """Return the cosine of each row of ``a`` with the same row of ``b``, ``[n]``.

    A zero vector has cosine 0 with anything but another zero vector (1): pooling over no token
    gives one in reference and artifact alike. NaN stays NaN.
    """
    x, y = a.astype(np.float64), b.astype(np.float64)
    nx, ny = np.linalg.norm(x, axis=1), np.linalg.norm(y, axis=1)
    both_zero = (nx == 0) & (ny == 0)
    norm = np.where((nx == 0) | (ny == 0), 1.0, nx * ny)
    return np.where(both_zero, 1.0, (x * y).sum(axis=1) / norm)


def neighbor_overlap(a: FloatArray, b: FloatArray, k: int) -> float:
    """Return the mean share of common neighbours among the ``k`` nearest, itself excluded."""
    return float(
        np.mean(
            [len(set(x) & set(y)) / k for x, y in zip(_nearest(a, k), _nearest(b, k), strict=True)]
        )
    )


def _nearest(embeddings: FloatArray, k: int) -> npt.NDArray[np.intp]:
    unit = embeddings / np.maximum(np.linalg.norm(embeddings, axis=1, keepdims=True), 1e-12)
    similarity = unit @ unit.T
    np.fill_diagonal(similarity, -np.inf)
    return np.argpartition(-similarity, k, axis=1)[:, :k]


def agreement(reference: FloatArray, artifact: FloatArray) -> Agreement:
    """Compare two sets of embeddings of the same sentences, ``[n, dim]`` each."""
    cosines = row_cosines(reference, artifact)
    n = len(cosines)
    return Agreement(
        n=n,
        mean=float(cosines.mean()),
        p1=float(np.quantile(cosines, 0.01)),
        min=float(cosines.min()),
        neighbor_overlap_at_10=neighbor_overlap(reference, artifact, 10) if n >= 12 else None,
    )
