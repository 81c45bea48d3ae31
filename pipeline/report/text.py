"""Render the outcome as a few lines for a terminal or a log."""

import textwrap
from collections.abc import Mapping
from typing import Any

from pipeline.contracts import Outcome
from pipeline.report import numbers
from pipeline.report.engine_text import engine_line
from pipeline.report.next_step import verdict
from pipeline.report.tried import tried_rows, tried_title


def render_text(outcome: Outcome) -> str:
    """Return what each artifact reached and where to look next, in lines of at most 100 columns."""
    data = outcome.report.data
    lines = [f"{data['model']} {data['precision']}: {data['status']}"]
    for artifact in data["artifacts"]:
        lines += _artifact(artifact)
    for item in data["not_built"]:
        lines.append(f"  {item['name']:<14}not built: {item['reason']}")
    for baseline in data["baselines"]:
        lines.append(_baseline(baseline))
    lines += _tried(data)
    lines += [f"gate failed: {gate}" for gate in outcome.report.failed_gates]
    lines += textwrap.wrap(f"next: {data['next_step']}", 100, subsequent_indent="  ")
    lines.append(
        f"{'published' if outcome.published else 'not published; report in'} {outcome.path}"
    )
    return "\n".join(lines)


def _tried(data: Mapping[str, Any]) -> list[str]:
    """Return what the precision was chosen from, a few lines for each."""
    if "auto" not in data:
        return []
    lines = textwrap.wrap(tried_title(data["auto"]), 100, subsequent_indent="  ")
    for precision, outcome, cosine, speed, why in tried_rows(data["auto"]):
        lines.append(f"  {precision:<14}{outcome}: mean cosine {cosine}, speed {speed}")
        indent = " " * 16
        lines += textwrap.wrap(why, 100, initial_indent=indent, subsequent_indent=indent)
    return lines


def _artifact(artifact: dict[str, Any]) -> list[str]:
    head = f"  {artifact['name']:<14}{artifact['bytes'] / 2**20:.1f} MiB, "
    if not artifact["executed"]:
        return [f"{head}not executed: {artifact['reason']}", *_plan(artifact)]
    cosine, speed = artifact["agreement"]["cosine"], artifact["throughput"]["speedup"]
    overlap = artifact["agreement"]["neighbor_overlap_at_10"]
    kept = "" if overlap is None else f", neighbours kept {100 * overlap:.1f} %"
    indent = " " * 16
    low, high = speed["ci95"]
    mean, p1, lowest = (numbers.cosine(cosine[key]) for key in ("mean", "p1", "min"))
    return [
        f"{head}{artifact['device']}",
        *_emulated(artifact, indent),
        f"{indent}cosine to fp32: mean {mean}, p1 {p1}, lowest {lowest}{kept}",
        *_kernels(artifact, indent),
        *_plan(artifact),
        *(
            f"{indent}{name} {task['metric']}: {task['artifact']:.2f} "
            f"(fp32 {task['reference']:.2f}, {task['delta']:+.2f}{_ends(task)})"
            for name, task in artifact["tasks"].items()
        ),
        f"{indent}{speed['median']:.2f}x PyTorch fp32 (95 %: {low:.2f} to {high:.2f})"
        f"{', SLOWER' if verdict(speed) == 'slower' else ''}, "
        f"latency p50 {artifact['latency_ms']['p50']:.2f} ms",
        *_from_text(artifact, indent),
    ]


def _emulated(artifact: dict[str, Any], indent: str) -> list[str]:
    if "emulated" not in artifact:
        return []
    return [
        f"{indent}the graph's arithmetic, emulated: {artifact['emulated']};",
        f"{indent}its speed is the emulation's",
    ]


def _from_text(artifact: dict[str, Any], indent: str) -> list[str]:
    timed = artifact["throughput"]["with_tokenization"]
    (low, high), ratio = timed["speedup"]["ci95"], timed["speedup"]["median"]
    return [f"{indent}{ratio:.2f}x ({low:.2f} to {high:.2f}) from text to vectors"]


def _baseline(baseline: dict[str, Any]) -> str:
    if not baseline["executed"]:
        return f"  in its place: {baseline['name']} not measured: {baseline['reason']}"
    return f"  in its place: {baseline['name']} {baseline['speedup']['median']:.2f}x PyTorch fp32"


def _ends(task: dict[str, Any]) -> str:
    low, high = task["ci95"]
    return f"; 95 %: {low:+.2f} to {high:+.2f}"


def _plan(artifact: dict[str, Any]) -> list[str]:
    if "engine" not in artifact:
        return []
    indent = " " * 16
    words = engine_line(artifact["engine"])
    return textwrap.wrap(words, 100, initial_indent=indent, subsequent_indent=indent)


def _kernels(artifact: dict[str, Any], indent: str) -> list[str]:
    counts = artifact.get("gemm_kernels")
    if counts is None or not counts["integer"]:
        return []
    return [f"{indent}GEMM kernels that ran: {counts['integer']} integer, {counts['float']} float"]
