"""The outcome as a few lines for a terminal or a log."""

from typing import Any

from pipeline.contracts import Outcome


def render_text(outcome: Outcome) -> str:
    """Return what each artifact reached and where to look next, in lines of at most 100 columns."""
    data = outcome.report.data
    lines = [f"{data['model']} {data['precision']}: {data['status']}"]
    for artifact in data["artifacts"]:
        lines += _artifact(artifact)
    for item in data["not_built"]:
        lines.append(f"  {item['name']:<14}not built: {item['reason']}")
    lines += [f"gate failed: {gate}" for gate in outcome.report.failed_gates]
    lines.append(
        f"{'published' if outcome.published else 'not published; report in'} {outcome.path}"
    )
    return "\n".join(lines)


def _artifact(artifact: dict[str, Any]) -> list[str]:
    head = f"  {artifact['name']:<14}{artifact['bytes'] / 2**20:.1f} MiB, "
    if not artifact["executed"]:
        return [f"{head}not executed: {artifact['reason']}"]
    cosine, speed = artifact["agreement"]["cosine"], artifact["throughput"]["speedup"]
    overlap = artifact["agreement"]["neighbor_overlap_at_10"]
    kept = "" if overlap is None else f", neighbours kept {100 * overlap:.1f} %"
    indent = " " * 16
    low, high = speed["ci95"]
    return [
        f"{head}{artifact['device']}",
        f"{indent}cosine to fp32: mean {cosine['mean']:.5f}, p1 {cosine['p1']:.5f}, "
        f"lowest {cosine['min']:.5f}{kept}",
        *_kernels(artifact, indent),
        *(
            f"{indent}{name} {task['metric']}: {task['artifact']:.2f} "
            f"(fp32 {task['reference']:.2f}, {task['delta']:+.2f})"
            for name, task in artifact["tasks"].items()
        ),
        f"{indent}{speed['median']:.2f}x PyTorch fp32 (95 %: {low:.2f} to {high:.2f}), "
        f"latency p50 {artifact['latency_ms']['p50']:.2f} ms",
    ]


def _kernels(artifact: dict[str, Any], indent: str) -> list[str]:
    counts = artifact.get("gemm_kernels")
    if counts is None or not counts["integer"]:
        return []
    return [f"{indent}GEMM kernels that ran: {counts['integer']} integer, {counts['float']} float"]
