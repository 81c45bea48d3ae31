"""The outcome as a few lines for a terminal."""

from io import StringIO
from typing import Any

from rich.console import Console
from rich.table import Table

from pipeline.contracts import Outcome


def render_text(outcome: Outcome) -> str:
    """Return a table of the artifacts and where to look next."""
    data = outcome.report.data
    table = Table(
        title=f"{data['model']} {data['precision']}: {data['status']}", title_justify="left"
    )
    for column in (
        "artifact",
        "MiB",
        "device",
        "cosine mean",
        "p1",
        "min",
        "neighbours@10",
        "task",
        "speed-up (95%)",
        "latency p50",
    ):
        table.add_column(column, justify="left" if column in ("artifact", "device") else "right")
    for artifact in data["artifacts"]:
        table.add_row(*_row(artifact))
    stream = StringIO()
    console = Console(file=stream, width=130, force_terminal=False)
    console.print(table)
    for item in data["not_built"]:
        console.print(f"{item['name']}: not built: {item['reason']}", highlight=False)
    for artifact in data["artifacts"]:
        if not artifact["executed"]:
            console.print(f"{artifact['name']}: not executed: {artifact['reason']}")
    for gate in outcome.report.failed_gates:
        console.print(f"gate failed: {gate}")
    verb = "published" if outcome.published else "not published; report in"
    console.print(f"{verb} {outcome.path}", soft_wrap=True)
    return stream.getvalue().rstrip()


def _row(artifact: dict[str, Any]) -> list[str]:
    head = [artifact["name"], f"{artifact['bytes'] / 2**20:.1f}"]
    if not artifact["executed"]:
        return [*head, "not executed", *["–"] * 7]
    cosine, speed = artifact["agreement"]["cosine"], artifact["throughput"]["speedup"]
    overlap = artifact["agreement"]["neighbor_overlap_at_10"]
    task = next(iter(artifact["tasks"].values()), None)
    return [
        *head,
        artifact["device"],
        f"{cosine['mean']:.5f}",
        f"{cosine['p1']:.5f}",
        f"{cosine['min']:.5f}",
        "–" if overlap is None else f"{overlap:.3f}",
        "–" if task is None else f"{task['artifact']:.1f} ({task['delta']:+.1f})",
        f"{speed['median']:.2f}x ({speed['ci95'][0]:.2f}–{speed['ci95'][1]:.2f})",
        f"{artifact['latency_ms']['p50']:.2f} ms",
    ]
