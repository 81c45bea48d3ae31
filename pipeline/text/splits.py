"""Split a user's texts into calibration and evaluation."""

import hashlib
from collections.abc import Sequence


def connected(pairs: Sequence[tuple[str, str]]) -> dict[str, str]:
    """Map each sentence to a representative of the sentences it is connected to."""
    parent: dict[str, str] = {}

    def root(text: str) -> str:
        parent.setdefault(text, text)
        while parent[text] != text:
            parent[text] = parent[parent[text]]
            text = parent[text]
        return text

    for a, b in pairs:
        low, high = sorted((root(a), root(b)))
        parent[high] = low
    return {text: root(text) for text in list(parent)}


def calibrates(key: str, fraction: float) -> bool:
    """Decide by hash of ``key``, so that the split is the same every night and in any row order."""
    draw = int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big") / 2**64
    return draw < fraction
