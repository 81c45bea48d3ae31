"""Decide between candidates that were tried, and say of each why it won or lost."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Speed:
    """How fast a candidate is on the target, the more the faster; ``low`` to ``high`` is how sure.

    ``data`` is what the report says of it.
    """

    rate: float
    low: float
    high: float
    data: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Tried:
    """What came of one candidate.

    ``missing`` says why it was not built, or has no speed on the target; ``failed_gates`` are in
    words. ``cosine_mean`` is None where nothing was measured.
    """

    precision: str
    built: bool = True
    cosine_mean: float | None = None
    failed_gates: Sequence[str] = ()
    speed: Speed | None = None
    missing: str | None = None


def choose(tried: Sequence[Tried]) -> Tried | None:
    """Return the fastest that passed its gates, or None where none did.

    Of those that nothing shows to be slower than the fastest, it is the closest to fp32.
    """
    fit = [item for item in tried if item.speed is not None and not item.failed_gates]
    if not fit:
        return None
    fastest = max(fit, key=_rate)
    equal = [item for item in fit if not is_faster(fastest, item)]
    return max(equal, key=lambda item: (item.cosine_mean or 0.0, _rate(item)))


def is_faster(one: Tried, other: Tried) -> bool:
    """Whether one is faster beyond what both are known to: their intervals are independent."""
    a, b = one.speed, other.speed
    assert a is not None
    assert b is not None
    unsure = math.hypot(math.log(a.rate / a.low), math.log(b.high / b.rate))
    return math.log(a.rate / b.rate) > unsure


def list_tried(tried: Sequence[Tried], chosen: Tried | None) -> list[dict[str, Any]]:
    """Return a row for each: what was seen, and why it won or lost."""
    fit = [item for item in tried if item.speed is not None and not item.failed_gates]
    return [
        {
            "precision": item.precision,
            "outcome": _outcome(item, chosen),
            "cosine_mean": item.cosine_mean,
            "failed_gates": list(item.failed_gates),
            "speed": None if item.speed is None else dict(item.speed.data),
            "why": _why(item, chosen, fit),
        }
        for item in tried
    ]


def _rate(item: Tried) -> float:
    assert item.speed is not None
    return item.speed.rate


def _outcome(item: Tried, chosen: Tried | None) -> str:
    if not item.built:
        return "not built"
    if item.failed_gates:
        return "failed"
    return "chosen" if item is chosen else "passed"


def _why(item: Tried, chosen: Tried | None, fit: Sequence[Tried]) -> str:
    if item.failed_gates:
        return f"failed {'; '.join(item.failed_gates)}"
    if item.missing is not None:
        return item.missing
    assert chosen is not None
    if item is not chosen:
        share = _rate(item) / _rate(chosen)
        if is_faster(chosen, item):
            return f"slower than {chosen.precision}: {share:.2f} of its speed"
        return (
            f"not shown to be faster than {chosen.precision} ({share:.2f} of its speed), which is "
            "closer to fp32"
        )
    equal = [other.precision for other in fit if other is not item and not is_faster(item, other)]
    if len(fit) == 1:
        return "the only one that passed its gates"
    if not equal:
        return "the fastest that passed its gates"
    return f"the closest to fp32 of the fastest that passed their gates, with {', '.join(equal)}"
