"""What the JSON holds, in a form that checks it: any part may be ``{"skipped": reason}``."""

from collections.abc import Mapping
from typing import Any

SCHEMA = 1

NUMBER: Any = (int, float)
MAYBE: Any = (int, float, type(None))
ANY = "*"
"""As a key: every key of the mapping, at least one."""

_SPEEDUP = {"median": NUMBER, "ci95": [NUMBER]}
_RATE = {"texts_per_second": NUMBER, "tokens_per_second": NUMBER}
_CELL = {
    "batch": int,
    "sequence": int,
    "ms": NUMBER,
    "tokens_per_second": NUMBER,
    "tflops": NUMBER,
    "of_ceiling": MAYBE,
}

SECTIONS: dict[str, Any] = {
    "ceilings": {
        **{kind: {"tflops": NUMBER, "size": int} for kind in ("fp32", "tf32", "fp16", "bf16")},
        **{kind: {"tflops": NUMBER, "size": int} for kind in ("int8", "fp8")},
        "copy": {"gb_per_second": NUMBER, "bytes": int},
        "launch": {"queued_us": NUMBER, "waited_us": NUMBER},
    },
    "model_gemms": {"tokens": int, "models": {ANY: {ANY: {"tflops": NUMBER}}}},
    "tokenization": {
        "texts": int,
        "mean_tokens": NUMBER,
        "cores": int,
        "one_core": _RATE,
        "all_cores": _RATE,
        "pad": _RATE,
    },
    "padding": {ANY: {"by_length": NUMBER, "in_order": NUMBER}},
    "sides": {ANY: {"device": str, "kind": str}},
    "agreement": {ANY: {"n": int, "mean": NUMBER, "p1": NUMBER, "min": NUMBER}},
    "latency_ms": {ANY: {"n": int, "p50": NUMBER, "p95": MAYBE, "p99": MAYBE}},
    "throughput": {
        ANY: {
            "sentences_per_second": NUMBER,
            "tokens_per_second": NUMBER,
            "speedup": _SPEEDUP,
            "rounds": int,
        }
    },
    "grid": {ANY: [_CELL]},
    "cuda_graphs": {
        ANY: [{"batch": int, "sequence": int, "off_ms": NUMBER, "on_ms": NUMBER}],
    },
    "text_to_vectors": {
        "texts": int,
        "tokenizing": NUMBER,
        "engines": {ANY: {"as_is": NUMBER, "tokens_at_once": MAYBE, "sweep": {ANY: NUMBER}}},
    },
    "memory": {ANY: {"opened_bytes": int, "used_bytes": int}},
    "clocks": {"before": {ANY: NUMBER}, "after": {ANY: NUMBER}},
}

_HEAD: dict[str, Any] = {
    "schema": int,
    "command": str,
    "quick": bool,
    "bundle": {"model": str, "precision": str, "model_sha256": str},
    "device": str,
    "encoder": {"linear_weights": int, "layers": int, "hidden": int},
    "environment": {"python": str, "cpu": str},
    "seconds": NUMBER,
}


def problems(result: Mapping[str, Any]) -> list[str]:
    """Return what a result lacks or has in another type, as ``path: problem``; empty: valid."""
    found = _compare(result, _HEAD | {"sections": SECTIONS}, "")
    if result.get("schema") != SCHEMA:
        found.append(f"schema: {result.get('schema')}, expected {SCHEMA}")
    unknown = set(result.get("sections", {})) - set(SECTIONS)
    return found + [f"sections.{name}: not in the schema" for name in sorted(unknown)]


def _compare(value: Any, expected: Any, path: str) -> list[str]:
    if isinstance(value, dict) and "skipped" in value:
        reason = value["skipped"]
        return [] if isinstance(reason, str) and reason else [f"{path}.skipped: no reason"]
    if isinstance(expected, dict):
        if not isinstance(value, dict):
            return [f"{path}: {type(value).__name__}, expected a mapping"]
        pairs = [(key, expected[key]) for key in expected if key != ANY]
        if ANY in expected:
            pairs = [(key, expected[ANY]) for key in value]
            if not value:
                return [f"{path}: empty"]
        missing = [f"{path}.{key}: missing" for key, _ in pairs if key not in value]
        nested = [
            problem
            for key, part in pairs
            if key in value
            for problem in _compare(value[key], part, f"{path}.{key}".lstrip("."))
        ]
        return missing + nested
    if isinstance(expected, list):
        if not isinstance(value, list) or not value:
            return [f"{path}: expected a list of at least one"]
        return [
            problem
            for i, item in enumerate(value)
            for problem in _compare(item, expected[0], f"{path}[{i}]")
        ]
    wrong = not isinstance(value, expected) or (expected is not bool and isinstance(value, bool))
    return [f"{path}: {type(value).__name__} {value!r}"] if wrong else []
