"""Write what ``report.json`` says of an artifact's vectors: agreement and tasks."""

from collections.abc import Mapping
from typing import Any

from pipeline.measure.quality.breakdown import Breakdown, Group
from pipeline.measure.quality.search import OVERSAMPLING, SearchScores
from pipeline.measure.quality.tasks import MetricScores, TaskScores
from pipeline.measure.results import ArtifactResult


def agreement_entry(result: ArtifactResult) -> dict[str, Any]:
    """Return ``artifacts[].agreement`` of an artifact that was executed."""
    agreement, breakdown, invariance = result.agreement, result.breakdown, result.invariance
    assert agreement is not None
    assert breakdown is not None
    assert invariance is not None
    overlap, checks = agreement.neighbor_overlap, agreement.checks
    return {
        "n": agreement.n,
        "cosine": {
            "mean": agreement.mean,
            "p1": agreement.p1,
            "min": agreement.min,
            "ci95": {
                "mean": list(agreement.mean_ci95),
                "p1": None if agreement.p1_ci95 is None else list(agreement.p1_ci95),
            },
        },
        "neighbor_overlap_at_10": overlap[10],
        "neighbor_overlap": {str(k): share for k, share in overlap.items()},
        **_breakdown_entries(breakdown),
        "checks": {
            "nan": checks.nan,
            "zero": checks.zero,
            "norm": _range(checks.norm),
            "reference_norm": _range(checks.reference_norm),
        },
        "invariance": {
            "n": invariance.n,
            "batch": invariance.batch,
            "padding": invariance.padding,
            "move": invariance.move,
        },
    }


def task_entry(task: TaskScores) -> dict[str, Any]:
    """Return one of ``artifacts[].tasks``: its main metric, then all of them."""
    return {
        "metric": task.metric,
        **_metric_entry(task.main),
        "n": task.n,
        "metrics": {name: _metric_entry(scores) for name, scores in task.metrics.items()},
    }


def search_entry(scores: SearchScores) -> dict[str, Any]:
    """Return ``artifacts[].search``, or ``reference.search``: every form of vector."""
    return {
        "queries": scores.queries,
        "documents": scores.documents,
        "among_themselves": scores.among_themselves,
        "matryoshka": scores.matryoshka,
        "oversampling": OVERSAMPLING,
        "vectors": [
            {
                "form": score.form,
                "dimensions": score.dimensions,
                "bytes": score.bytes,
                "bytes_stored": score.bytes_stored,
                "recall_at_10": score.recall,
                "recall_ci95": list(score.recall_ci95),
                "ndcg_at_10": None if score.ndcg is None else _metric_entry(score.ndcg),
            }
            for score in scores.forms
        ],
    }


def _metric_entry(scores: MetricScores) -> dict[str, Any]:
    return {
        "reference": scores.reference,
        "artifact": scores.artifact,
        "delta": scores.delta,
        "ci95": list(scores.delta_ci95),
    }


def _breakdown_entries(breakdown: Breakdown) -> Mapping[str, Any]:
    histogram = breakdown.histogram
    return {
        "histogram": {"edges": list(histogram.edges), "counts": list(histogram.counts)},
        "by_length": [
            {"tokens": list(tokens), **_group(group)} for tokens, group in breakdown.by_length
        ],
        "by_kind": [{"kind": kind, **_group(group)} for kind, group in breakdown.by_kind],
        "worst": [
            {"text": text.text, "tokens": text.tokens, "kind": text.kind, "cosine": cosine}
            for text, cosine in breakdown.worst
        ],
    }


def _group(group: Group) -> dict[str, Any]:
    return {"n": group.n, "mean": group.mean, "p1": group.p1, "min": group.min}


def _range(ends: tuple[float, float]) -> dict[str, float]:
    return {"min": ends[0], "max": ends[1]}
