"""Say in sentences what a run's figures say: who is fastest, who is not told apart from it."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

Result = Mapping[str, Any]

_SHAPES = {
    "natural": "At natural lengths",
    "fixed": "At 128 tokens",
    "single": "One sentence at a time",
}


def findings(sides: Sequence[Result]) -> list[str]:
    """Return a sentence on each shape of text, and one on the cosines of the int8 sides."""
    return [
        *(_on_speed(sides, shape, words) for shape, words in _SHAPES.items()),
        *_on_cosines(sides),
    ]


def _on_speed(sides: Sequence[Result], shape: str, words: str) -> str:
    first, *others = sorted(sides, key=lambda side: -_ratio(side, shape))
    said = f"{words} {first['title']} has the highest ratio, {_ratio(first, shape):.2f}x"
    if not others:
        return f"{said}; nothing was measured beside it."
    known = [side for side in (first, *others) if side["ratio"][shape]["ci95"] is not None]
    if len(known) < len(sides):
        return f"{said}; without intervals for all, who is told apart is not known."
    near = [side["title"] for side in others if _overlap(first, side, shape)]
    if near:
        return f"{said}, not told apart from {_and(near)}: their intervals overlap."
    return f"{said}, apart from all others; next is {_named(others[0], shape)}."


def _on_cosines(sides: Sequence[Result]) -> Iterator[str]:
    reduced = [side for side in sides if "int8" in side["name"]]
    if len(reduced) > 1:
        ranked = sorted(reduced, key=lambda side: -side["cosine"]["mean"])
        best, worst = ranked[0]["cosine"]["mean"], ranked[-1]["cosine"]["mean"]
        level = [s["title"] for s in ranked if f"{s['cosine']['mean']:.5f}" == f"{best:.5f}"]
        yield (
            f"Of the int8 sides {_and(level)} {'stay' if len(level) > 1 else 'stays'} closest to "
            f"fp32, mean cosine {best:.5f}; the furthest is {ranked[-1]['title']}, {worst:.5f}."
        )


def _ratio(side: Result, shape: str) -> float:
    return float(side["ratio"][shape]["median"])


def _named(side: Result, shape: str) -> str:
    return f"{side['title']} at {_ratio(side, shape):.2f}x"


def _overlap(a: Result, b: Result, shape: str) -> bool:
    (low, high), (other_low, other_high) = a["ratio"][shape]["ci95"], b["ratio"][shape]["ci95"]
    return bool(low <= other_high and other_low <= high)


def _and(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{'; '.join(names[:-1])} and {names[-1]}"
