"""Write numbers for people: as many digits as the measurement carries, never a blank."""

import math
from collections.abc import Sequence

NOT_MEASURED = "not measured"


def digits(value: float | None) -> str:
    """Return three significant digits, or whole numbers from 100 on: 1.83, 18.3, 1,830."""
    if value is None or not math.isfinite(value):
        return NOT_MEASURED
    if value == 0:
        return "0"
    if abs(value) < 0.001:
        return f"{value:.1e}"
    return f"{value:,.{max(0, 2 - math.floor(math.log10(abs(value))))}f}"


def cosine(value: float | None) -> str:
    """Return a cosine with five decimals, seven where five would hide that it is below 1."""
    if value is None:
        return NOT_MEASURED
    return f"{value:.5f}" if value < 0.999995 or value >= 0.99999995 else f"{value:.7f}"


def ratio(value: float | None) -> str:
    """Return a speed-up: 2.17×."""
    return NOT_MEASURED if value is None else f"{value:.2f}×"


def span(ends: Sequence[float] | None, form: str = ".2f") -> str:
    """Return an interval: 1.97 to 2.38."""
    return NOT_MEASURED if ends is None else f"{ends[0]:{form}} to {ends[1]:{form}}"


def points(value: float | None) -> str:
    """Return a difference of two task scores, with its sign: +0.08, −1.90."""
    return NOT_MEASURED if value is None else f"{value:+.2f}".replace("-", "−")


def points_span(ends: Sequence[float] | None) -> str:
    """Return the interval of a difference of two task scores: −0.20 to +0.41."""
    return NOT_MEASURED if ends is None else f"{points(ends[0])} to {points(ends[1])}"


def mebibytes(value: float | None) -> str:
    """Return a size in bytes as 56.1 MiB."""
    return NOT_MEASURED if value is None else f"{value / 2**20:,.1f} MiB"


def percent(share: float | None) -> str:
    """Return a share as 97.1 %."""
    return NOT_MEASURED if share is None else f"{100 * share:.1f} %"


def milliseconds(value: float | None) -> str:
    """Return 1.83 ms."""
    return NOT_MEASURED if value is None else f"{digits(value)} ms"


def power(value: float) -> str:
    """Return a small number with two digits and its power of ten: 3.2e-4."""
    return f"{value:.1e}".replace("e-0", "e-").replace("e+00", "") if value else "0"


def metric(name: str) -> str:
    """Return a task metric's name as people write it: recall@10, nDCG@10, Spearman."""
    known = {
        "ndcg": "nDCG",
        "mrr": "MRR",
        "map": "MAP",
        "hit_rate": "hit rate",
        "spearman": "Spearman",
        "cosine_ap": "average precision",
        "v_measure": "V-measure",
    }
    head, _, cut = name.partition("_at_")
    return known.get(head, head) + (f"@{cut}" if cut else "")


def vectors(form: str) -> str:
    """Return a form of vector as people write it: binary, then int8; first 192 dimensions."""
    if form.startswith("first_"):
        return f"first {form.removeprefix('first_')} dimensions"
    known = {
        "int8_dot": "int8, one step",
        "binary_int8": "binary, then int8",
        "binary_float32": "binary, then float32",
    }
    return known.get(form, form)


def gate_value(name: str, value: float | None) -> str:
    """Return a gate's threshold or observation; six decimals where it is a cosine."""
    if value is None or not math.isfinite(value):
        return "not a number"
    return f"{value:.6f}" if name.startswith(("cosine", "invariance")) else f"{value:.6g}"
