"""Say where an int8 or fp8 engine would be slower than an fp16 one beside it, by prediction."""

from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.report import numbers
from pipeline.report.published import engines_of

_NAMED_GPUS = 3


def predicted_advice(data: Mapping[str, Any]) -> str:
    """Return a sentence that begins with a space, or nothing where it is nowhere slower.

    Compared are this report's int8 or fp8 plans with the fp16 plans of the same runtime beside
    them, by predicted time at the largest shape that both have.
    """
    for plan in engines_of(data):
        kind = plan["precision"].partition("_")[0]
        if kind not in ("int8", "fp8"):
            continue
        for other in data["engines_beside"]:
            if (other["precision"], other["artifact"]) == ("fp16", plan["artifact"]):
                return _advice(kind, plan["engine"], other["engine"])
    return ""


def _advice(kind: str, reduced: Mapping[str, Any], fp16: Mapping[str, Any]) -> str:
    shared = [shape for shape in reduced["bytes_per_token"] if shape in fp16["bytes_per_token"]]
    if not shared:
        return ""
    shape = "32x128" if "32x128" in shared else shared[-1]
    slower = [
        (gpu, times[shape], fp16["predicted_ms"][gpu][shape])
        for gpu, times in reduced["predicted_ms"].items()
        if gpu in fp16["predicted_ms"] and times[shape] > fp16["predicted_ms"][gpu][shape]
    ]
    if not slower:
        return ""
    slower.sort(key=lambda found: found[2] / found[1])
    gpu, ours, theirs = slower[0]
    moved = reduced["bytes_per_token"][shape] / fp16["bytes_per_token"][shape]
    return (
        f" By prediction fp16 is the faster engine at {shape.replace('x', ' × ')} on "
        f"{_listed([name for name, *_ in slower])} ({gpu}: {numbers.milliseconds(theirs)} against "
        f"{numbers.milliseconds(ours)}; {kind} moves {moved:.2f} times its bytes): deploy fp16 "
        f"there{', or set precision.engine_aware' if kind == 'int8' else ''}."
    )


def _listed(names: Sequence[str]) -> str:
    shown = names[:_NAMED_GPUS]
    if len(names) > len(shown):
        return f"{', '.join(shown)} and {len(names) - len(shown)} more"
    return " and ".join([", ".join(shown[:-1]), shown[-1]] if len(shown) > 1 else shown)
