"""Choose the metrics judged as speed, and how small a step of a metric means something."""

from collections.abc import Sequence
from statistics import median

SPEEDS = {"speedup": "speed-up", "latency_speedup": "speed-up of single sentences"}
"""Metrics whose loss a rerun confirms; each a ratio to PyTorch fp32 in the same minutes."""

_LEAST_SPEED_SHARE, _LEAST_COSINE, _LEAST_POINTS = 0.02, 1e-5, 0.05


def has_steps(metric: str) -> bool:
    """Return whether a step of the metric is told: those of speed, of the mean cosine, of tasks."""
    is_score = metric.startswith("task.") and not metric.endswith(".delta")
    return metric in SPEEDS or metric == "cosine_mean" or is_score


def least_step(metric: str, values: Sequence[float]) -> float:
    """Return the smallest step that means something, in the unit of ``values``, which are some."""
    if metric == "cosine_mean":
        return _LEAST_COSINE
    return _LEAST_POINTS if metric.startswith("task.") else _LEAST_SPEED_SHARE * median(values)
