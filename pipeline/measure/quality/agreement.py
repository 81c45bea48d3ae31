"""Measure how far an artifact's embeddings are from the reference's."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.measure.quality.bootstrap import Interval, mean_interval
from pipeline.vectors import DoubleArray, FloatArray, row_cosines, unit, zero_where_not_finite

NEIGHBORS = (1, 10, 100)
_ROWS = 1024
"""Rows of the similarity matrix at once: 10,000 texts would need 400 MB for all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VectorChecks:
    """What no cosine shows: rows that are no vectors, and lengths.

    ``nan`` counts rows with a NaN or infinite value, ``zero`` zero vectors where the reference's
    is none. Norms are the shortest and the longest, of the artifact's finite rows; 0 without one.
    """

    nan: int
    zero: int
    norm: tuple[float, float]
    reference_norm: tuple[float, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Agreement:
    """Cosine of each sentence's two embeddings, and the neighbours they keep.

    ``mean_ci95`` is a bootstrap interval over the sentences, ``p1_ci95`` that of ``p1_interval``.
    ``neighbor_overlap`` maps k to the mean share of a sentence's k nearest sentences (by cosine,
    itself excluded) that reference and artifact have in common; None below k + 2 sentences.
    """

    n: int
    mean: float
    p1: float
    min: float
    mean_ci95: Interval
    p1_ci95: Interval | None
    neighbor_overlap: Mapping[int, float | None]
    checks: VectorChecks


def agreement(reference: FloatArray, artifact: FloatArray) -> Agreement:
    """Compare two sets of embeddings of the same sentences, ``[n, dim]`` each.

    A row of the artifact that is not finite is counted in ``checks``, and is a zero vector for all
    the rest.
    """
    checks = check_vectors(reference, artifact)
    artifact = zero_where_not_finite(artifact)
    cosines = row_cosines(reference, artifact)
    return Agreement(
        n=len(cosines),
        mean=float(cosines.mean()),
        p1=float(np.quantile(cosines, 0.01)),
        min=float(cosines.min()),
        mean_ci95=mean_interval(cosines),
        p1_ci95=p1_interval(cosines),
        neighbor_overlap=neighbor_overlap(reference, artifact, NEIGHBORS),
        checks=checks,
    )


def p1_interval(cosines: DoubleArray) -> Interval | None:
    """Return the 95% interval of the 1st percentile, None below 368 cosines.

    Its ends are order statistics with the ranks that the binomial distribution gives, which holds
    for any distribution: fewer than 368 have no lower end. Resampling gives no more than these
    order statistics either, and its ends were too narrow (85% in place of 95% at 500 cosines of a
    log-normal loss). https://docs.scipy.org/doc/scipy/reference/generated/scipy.stats.quantile_test.html
    """
    from scipy.stats import quantile_test

    found: Any = quantile_test(cosines, p=0.01).confidence_interval(0.95)
    low, high = float(found.low), float(found.high)
    return None if np.isnan(low) or np.isnan(high) else (low, high)


def neighbor_overlap(a: FloatArray, b: FloatArray, sizes: Sequence[int]) -> dict[int, float | None]:
    """Return, for each k in ``sizes``, the mean share of common neighbours among the k nearest.

    A row is not its own neighbour. None where there are fewer than k + 2 rows: all others would be
    neighbours. Vectors that have nothing in common share k / (n - 1) by chance.
    """
    n = len(a)
    unit_a, unit_b = unit(a), unit(b)
    common = {k: 0 for k in sizes if n >= k + 2}
    for start in range(0, n, _ROWS):
        rows = range(start, min(start + _ROWS, n))
        near_a, near_b = _others(unit_a, rows), _others(unit_b, rows)
        for k in common:
            common[k] += int((_nearest(near_a, k) & _nearest(near_b, k)).sum())
    return {k: common[k] / (k * n) if k in common else None for k in sizes}


def _others(vectors: FloatArray, rows: range) -> FloatArray:
    """Return the cosine of ``rows`` with every vector, minus infinity with itself."""
    similarity: FloatArray = vectors[rows.start : rows.stop] @ vectors.T
    similarity[np.arange(len(rows)), np.arange(rows.start, rows.stop)] = -np.inf
    return similarity


def _nearest(similarity: FloatArray, k: int) -> npt.NDArray[np.bool_]:
    mask = np.zeros(similarity.shape, dtype=np.bool_)
    np.put_along_axis(mask, np.argpartition(-similarity, k, axis=1)[:, :k], True, axis=1)
    return mask


def check_vectors(reference: FloatArray, artifact: FloatArray) -> VectorChecks:
    """Count rows of the artifact that are no vectors; measure both sides' norms."""
    finite = np.isfinite(artifact).all(axis=1)
    norm, expected = (np.linalg.norm(v.astype(np.float64), axis=1) for v in (artifact, reference))
    kept = norm[finite] if finite.any() else np.zeros(1)
    return VectorChecks(
        nan=int((~finite).sum()),
        zero=int(((norm == 0) & (expected != 0)).sum()),
        norm=(float(kept.min()), float(kept.max())),
        reference_norm=(float(expected.min()), float(expected.max())),
    )
