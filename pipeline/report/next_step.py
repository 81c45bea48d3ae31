"""Say what a report's numbers mean: what to do first, and what an artifact gives."""

from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.report import numbers
from pipeline.report.predicted import predicted_advice
from pipeline.report.tried import chosen_words

_WIDE = 1.25
"""An interval whose ends differ by more than this ratio carries no point estimate."""

_HIGHER = {
    "int8": "precision=int8_max or precision=fp16",
    "fp16": "precision=bf16 or precision=fp32",
    "fp8": "precision=fp8_max, precision=int8 or precision=fp16",
    "bf16": "precision=fp16 or precision=fp32",
}


def next_step(data: Mapping[str, Any]) -> str:
    """Return one sentence: what to do first."""
    if data["status"] == "unvalidated":
        return (
            "Do not deploy this: nothing was measured. Run again with validate=default; what is in "
            "the store is not made again."
        )
    if data["status"] != "passed":
        return _after_failure(data)
    executed = [artifact for artifact in data["artifacts"] if artifact["executed"]]
    waiting = [artifact for artifact in data["artifacts"] if not artifact["executed"]]
    rest = (
        f" Measure {' and '.join(a['name'] for a in waiting)} on the machine that will serve it."
        if waiting
        else ""
    )
    rest += _beside_fp8(data) + predicted_advice(data)
    if not executed:
        return f"Nothing was measured.{rest}"
    unused = chosen_words(data) + _unused_gpu(data, executed)
    # Ratios are to PyTorch on an artifact's own device: between devices sentences a second tell.
    best = max(executed, key=lambda artifact: artifact["throughput"]["sentences_per_second"])
    words = verdict(_speed(best))
    if words != "faster":
        slow = "slower than" if words == "slower" else "no faster than"
        return f"{unused}Keep PyTorch fp32 on this machine: {best['file']} is {slow} it.{rest}"
    better = _better_beside(best, data)
    if better is not None:
        return (
            f"{unused}Deploy {better['precision']}, which is published beside this one: its "
            f"{better['artifact']} is faster and closer to fp32.{rest}"
        )
    reference = best["throughput"].get("reference_device") or best["device"]
    gain = f"{_gain(_speed(best))} the speed of PyTorch fp32 on {reference}"
    shared = sum(artifact["file"] == best["file"] for artifact in executed) > 1
    runtime = f" in {best['name']}" if shared else ""
    return f"{unused}Deploy {best['file']}{runtime}: {gain}.{rest}"


def _beside_fp8(data: Mapping[str, Any]) -> str:
    """Say of fp8 that int8 mostly keeps more, or by how much where it is published beside."""
    if not data["precision"].startswith("fp8"):
        return ""
    ours = max(
        (a["agreement"]["cosine"]["mean"] for a in data["artifacts"] if a["executed"]), default=0.0
    )
    int8 = [e for e in data["published"] if e["comparable"] and e["precision"].startswith("int8")]
    theirs = [entry["cosine_mean"] for entry in int8]
    if not theirs:
        return (
            " E4M3 has 4 bits of fraction at most, int8 up to 7: see what precision=int8 keeps "
            "before you deploy fp8."
        )
    if max(theirs) <= ours:
        return ""
    return (
        f" int8, which is published beside it, keeps more: mean cosine "
        f"{numbers.cosine(max(theirs))} for {numbers.cosine(ours)}."
    )


def _unused_gpu(data: Mapping[str, Any], executed: Sequence[Mapping[str, Any]]) -> str:
    """Say first that there is a GPU and nothing of the bundle ran on it; name what beside did."""
    there = data["reference"]["device"] == "cuda" or data["environment"]["gpu"]
    if not there or any(artifact["device"] != "cpu" for artifact in executed):
        return ""
    names = " and ".join(sorted({artifact["name"] for artifact in executed}))
    beside = {e["precision"] for e in data["published"] if e.get("device", "cpu") != "cpu"}
    did = f"; {' and '.join(sorted(beside))}, published beside it, did" if beside else ""
    return f"Nothing of this bundle ran on the GPU of this machine ({names} ran on the CPU){did}. "


def status_words(status: str) -> str:
    """Return what a report's status means for its reader."""
    return {"passed": "passed", "unvalidated": "not validated"}.get(status, "failed, not published")


def _gain(speedup: Mapping[str, Any]) -> str:
    """Return the ratio, or only its lower end where a busy machine left the interval wide."""
    low, high = speedup["ci95"]
    if high > _WIDE * low:
        return f"at least {numbers.ratio(low)} (measure again on a quieter machine)"
    return numbers.ratio(speedup["median"])


def _after_failure(data: Mapping[str, Any]) -> str:
    for artifact in data["artifacts"]:
        for gate in artifact.get("gates", []):
            if not gate["passed"]:
                return _mend(artifact["name"], gate, data["precision"])
    return "Read the failed gate: nothing was published."


def _mend(artifact: str, gate: Mapping[str, Any], precision: str) -> str:
    kind = precision.partition("_")[0]
    if gate["relative_to"] == "published":
        first = "keep the published bundle, which is better in this"
    elif gate["name"].startswith("plan."):
        first = f"its plan does not run what {precision} says ({gate['detail']}); publish with "
        first += "engine=onnxruntime, or another precision"
    elif gate["name"] == "speed":
        first = "publish a faster precision in its place"
    elif gate["name"] == "vectors.finite":
        first = f"try {_HIGHER.get(kind, 'precision=fp32')}, since something overflows"
    elif kind == "fp32":
        first = "try exporter=optimum, since fp32 itself differs"
    else:
        first = f"try {_HIGHER.get(kind, 'precision=fp32')}, or text like yours (dataset=…)"
    change = f"or change {gate['setting']} if this is enough for you"
    return f"{artifact} failed {gate['name']}: {first}; {change}."


def _better_beside(
    artifact: Mapping[str, Any], data: Mapping[str, Any]
) -> Mapping[str, Any] | None:
    """Return what is published, faster beyond doubt and closer to fp32, if there is such."""
    mean, high = artifact["agreement"]["cosine"]["mean"], _speed(artifact)["ci95"][1]
    for entry in data["published"]:
        same = entry.get("device", artifact["device"]) == artifact["device"]
        near, fast = entry["cosine_mean"] > mean, entry["ci95"][0] > high
        if entry["comparable"] and same and near and fast:
            found: Mapping[str, Any] = entry
            return found
    return None


def _speed(artifact: Mapping[str, Any]) -> Mapping[str, Any]:
    speedup: Mapping[str, Any] = artifact["throughput"]["speedup"]
    return speedup


def verdict(speedup: Mapping[str, Any]) -> str:
    """Return faster, slower or no difference, as it was decided when the interval was measured."""
    return str(speedup["verdict"])


def worth(artifact: Mapping[str, Any]) -> str:
    """Return what an executed artifact costs and gives: its main task against its speed."""
    speed = f"{numbers.ratio(_speed(artifact)['median'])} the speed of PyTorch fp32"
    if verdict(_speed(artifact)) != "faster":
        speed += f" ({verdict(_speed(artifact))})"
    task = next(iter(artifact["tasks"].values()), None)
    if task is None:
        return f"{speed}; no task was scored."
    score = (
        f"{numbers.metric(task['metric'])} {task['artifact']:.2f} "
        f"against {task['reference']:.2f} of fp32"
    )
    return f"{score} ({_loss(task)}), at {speed}."


def _loss(task: Mapping[str, Any]) -> str:
    ends = task["ci95"]
    within = f"{numbers.points(task['delta'])}; 95 %: {numbers.points_span(ends)}"
    if ends[1] < 0:
        return f"a loss: {within}"
    return f"a gain: {within}" if ends[0] > 0 else f"no loss that shows: {within}"
