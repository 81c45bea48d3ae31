"""Make one row for each artifact of a report, for the summary and the comparison."""

from collections.abc import Mapping
from typing import Any

from pipeline.report import numbers
from pipeline.report.next_step import verdict

COLUMNS = (
    "model",
    "precision",
    "artifact",
    "size",
    "cosine mean",
    "p1",
    "task",
    "speed-up (95 %)",
    "p50",
    "device",
)


def rows(data: Mapping[str, Any]) -> list[dict[str, str]]:
    """Return a report's artifacts as text by column; ``device`` holds why one was not executed."""
    marks = {"passed": "", "unvalidated": " (not validated)"}
    rejected = marks.get(data["status"], " (rejected)")
    return [
        {
            "model": data["model"],
            "precision": data["precision"] + rejected,
            "artifact": artifact["name"],
            "size": numbers.mebibytes(artifact["bytes"]),
            **_measured(artifact),
        }
        for artifact in data["artifacts"]
    ]


def _measured(artifact: Mapping[str, Any]) -> dict[str, str]:
    if not artifact["executed"]:
        missing = dict.fromkeys(COLUMNS[4:9], numbers.NOT_MEASURED)
        return missing | {"device": f"not executed: {artifact['reason']}"}
    cosine, speed = artifact["agreement"]["cosine"], artifact["throughput"]["speedup"]
    task = next(iter(artifact["tasks"].values()), None)
    slower = ", slower" if verdict(speed) == "slower" else ""
    return {
        "cosine mean": numbers.cosine(cosine["mean"]),
        "p1": numbers.cosine(cosine["p1"]),
        "task": numbers.NOT_MEASURED if task is None else _score(task),
        "speed-up (95 %)": (
            f"{numbers.ratio(speed['median'])} ({numbers.span(speed['ci95'])}){slower}"
        ),
        "p50": numbers.milliseconds(artifact["latency_ms"]["p50"]),
        "device": artifact["device"],
    }


def _score(task: Mapping[str, Any]) -> str:
    delta = numbers.points(task["delta"])
    return f"{numbers.metric(task['metric'])} {task['artifact']:.2f} ({delta})"
