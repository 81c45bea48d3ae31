"""Collect the points of the trade-off plot: how fast, and how near to the reference."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

Ends = tuple[float, float]
Kind = Literal["this", "published", "reference", "baseline", "rejected"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """One way to run the model: speed-up over PyTorch fp32 and quality, with 95 % intervals.

    ``task`` is the main task's score, 0 to 100. What was not measured is None.
    """

    label: str
    kind: Kind
    speedup: float
    speedup_ends: Ends | None = None
    cosine: float | None = None
    cosine_ends: Ends | None = None
    task: float | None = None
    task_ends: Ends | None = None


def main_task(data: Mapping[str, Any]) -> tuple[str, str] | None:
    """Return name and metric of the first task that was scored; None without one."""
    for artifact in data["artifacts"]:
        for name, task in artifact.get("tasks", {}).items():
            return name, task["metric"]
    return None


def report_points(data: Mapping[str, Any]) -> list[Point]:
    """Return the reference, the report's artifacts, and what is published beside them here."""
    task = main_task(data)
    executed = [a for a in data["artifacts"] if a["executed"]]
    published = [p for p in data["published"] if p["comparable"]]
    names = {a["name"] for a in executed} | {p["artifact"] for p in published}
    own: Kind = "this" if data["status"] == "passed" else "rejected"
    found = [artifact_point(data, a, task, kind=own, short=len(names) == 1) for a in executed]
    found += [_published_point(p, task, short=len(names) == 1) for p in published]
    return [reference_point(executed, task), *found, *_baselines(data)]


def reference_point(artifacts: Sequence[Mapping[str, Any]], task: tuple[str, str] | None) -> Point:
    """Return PyTorch fp32: what everything is compared with."""
    scores = [t["reference"] for a in artifacts if (t := _score(a, task)) is not None]
    return Point(
        label="PyTorch fp32",
        kind="reference",
        speedup=1.0,
        cosine=1.0,
        task=scores[0] if scores else None,
    )


def artifact_point(
    data: Mapping[str, Any],
    artifact: Mapping[str, Any],
    task: tuple[str, str] | None,
    *,
    kind: Kind,
    short: bool,
) -> Point:
    """Return an executed artifact's point; ``short``: its precision names it well enough."""
    cosine, speed = artifact["agreement"]["cosine"], artifact["throughput"]["speedup"]
    score = _score(artifact, task)
    ends = None
    if score is not None:
        ends = (score["reference"] + score["ci95"][0], score["reference"] + score["ci95"][1])
    return Point(
        label=_label(data["precision"], artifact["name"], short=short),
        kind=kind,
        speedup=speed["median"],
        speedup_ends=_pair(speed["ci95"]),
        cosine=cosine["mean"],
        cosine_ends=_pair(cosine["ci95"]["mean"]),
        task=None if score is None else score["artifact"],
        task_ends=ends,
    )


def _published_point(
    entry: Mapping[str, Any], task: tuple[str, str] | None, *, short: bool
) -> Point:
    score = entry["task"]
    same = score is not None and (score["name"], score["metric"]) == task
    return Point(
        label=_label(entry["precision"], entry["artifact"], short=short),
        kind="published",
        speedup=entry["speedup"],
        speedup_ends=_pair(entry["ci95"]),
        cosine=entry["cosine_mean"],
        task=score["artifact"] if same else None,
    )


def _baselines(data: Mapping[str, Any]) -> list[Point]:
    return [
        Point(
            label=baseline["name"],
            kind="baseline",
            speedup=baseline["speedup"]["median"],
            speedup_ends=_pair(baseline["speedup"]["ci95"]),
        )
        for baseline in data["baselines"]
        if baseline["executed"]
    ]


def _score(artifact: Mapping[str, Any], task: tuple[str, str] | None) -> Mapping[str, Any] | None:
    found: Mapping[str, Any] | None = artifact.get("tasks", {}).get(task[0]) if task else None
    return found if found is not None and task is not None and found["metric"] == task[1] else None


def _label(precision: str, artifact: str, *, short: bool) -> str:
    return precision if short else f"{precision} {artifact}"


def _pair(ends: Sequence[float] | None) -> Ends | None:
    return None if ends is None else (ends[0], ends[1])
