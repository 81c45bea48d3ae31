"""Hold an engine to a bundle's proof: does it, on this machine, give the model's vectors?"""

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline.bundle.proof import Proof
from pipeline.errors import BundleError
from pipeline.runtime.encoder import TextEncoder
from pipeline.runtime.invariance import Invariance, measure_invariance
from pipeline.text.tokens import TokenRow
from pipeline.vectors import row_cosines

_BATCH_SIZE = 32

QUICK_TEXTS = 32
QUICK_BATCH_SIZE = 8
QUICK_INVARIANCE = 4
QUICK_PADDED = 32
"""What a server that starts has time for: small batches, since padding is computed too, and four
texts alone, padded and together that are no longer than ``QUICK_PADDED`` tokens."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckedGate:
    """A threshold of the bundle and what was seen here."""

    name: str
    threshold: float
    observed: float

    @property
    def passed(self) -> bool:
        """Whether the value reaches the threshold; NaN never does."""
        return self.observed >= self.threshold


@dataclass(frozen=True, slots=True, kw_only=True)
class Checked:
    """What one engine's vectors of ``n`` check texts are, and how long they took.

    ``finite`` and ``nonzero`` are shares; ``worst`` quotes the text with the lowest cosine.
    """

    runtime: str
    device: str
    n: int
    mean: float
    p1: float
    min: float
    worst: str
    finite: float
    nonzero: float
    invariance: Invariance
    sentences_per_second: float
    gates: tuple[CheckedGate, ...]

    @property
    def failed(self) -> list[str]:
        """What failed, as ``gate observed < threshold``."""
        return [
            f"{gate.name} {gate.observed:.6f} < {gate.threshold:g}"
            for gate in self.gates
            if not gate.passed
        ]

    def data(self) -> dict[str, Any]:
        """Return it as JSON, in the words of ``report.json``."""
        return {
            "executed": True,
            "device": self.device,
            "agreement": {
                "n": self.n,
                "cosine": {"mean": self.mean, "p1": self.p1, "min": self.min},
                "checks": {"finite": self.finite, "nonzero": self.nonzero},
                "invariance": {
                    "n": self.invariance.n,
                    "batch": self.invariance.batch,
                    "padding": self.invariance.padding,
                    "move": self.invariance.move,
                },
            },
            "sentences_per_second": self.sentences_per_second,
            "gates": [
                {
                    "name": gate.name,
                    "threshold": gate.threshold,
                    "observed": gate.observed,
                    "passed": gate.passed,
                }
                for gate in self.gates
            ],
        }


def check_engine(encoder: TextEncoder, proof: Proof, *, quick: bool = False) -> Checked:
    """Encode the check texts, compare with PyTorch fp32's vectors, and judge by the gates.

    ``quick`` takes ``QUICK_TEXTS`` of them, of all lengths.
    """
    step = max(1, len(proof.texts) // QUICK_TEXTS) if quick else 1
    texts, expected = list(proof.texts[::step]), proof.vectors[::step]
    started = time.perf_counter()
    vectors = encoder.encode(texts, QUICK_BATCH_SIZE if quick else _BATCH_SIZE)
    seconds = time.perf_counter() - started
    cosines = row_cosines(expected, vectors)
    ranked = np.where(np.isnan(cosines), -np.inf, cosines)
    rows = encoder.tokenizer.rows(texts)
    invariance = (
        measure_invariance(encoder.engine, encoder.tokenizer, _short(rows), QUICK_INVARIANCE)
        if quick
        else measure_invariance(encoder.engine, encoder.tokenizer, rows)
    )
    zero = ~np.any(vectors, axis=1) & np.any(expected, axis=1)
    figures = {
        "cosine.mean": float(cosines.mean()),
        "cosine.p1": float(np.quantile(cosines, 0.01)),
        "invariance.batch": invariance.batch,
        "invariance.padding": invariance.padding,
        "vectors.finite": float(np.isfinite(vectors).all(axis=1).mean()),
        "vectors.nonzero": 1 - float(zero.mean()),
    }
    return Checked(
        runtime=encoder.engine.name,
        device=encoder.engine.device,
        n=len(texts),
        mean=figures["cosine.mean"],
        p1=figures["cosine.p1"],
        min=float(cosines.min()),
        worst=texts[int(ranked.argmin())],
        finite=figures["vectors.finite"],
        nonzero=figures["vectors.nonzero"],
        invariance=invariance,
        sentences_per_second=len(texts) / seconds,
        gates=tuple(_judge(figures, proof.gates)),
    )


def _short(rows: Sequence[TokenRow]) -> Sequence[TokenRow]:
    """Return the rows that are soon encoded, all where those are too few to be told apart."""
    short = [row for row in rows if len(row.ids) <= QUICK_PADDED]
    return short if len(short) >= QUICK_INVARIANCE else rows


def _judge(figures: Mapping[str, float], gates: Mapping[str, float]) -> Iterator[CheckedGate]:
    for name, threshold in gates.items():
        if name in figures:
            yield CheckedGate(name=name, threshold=threshold, observed=figures[name])


def require_passed(checked: Checked, bundle: object) -> None:
    """Refuse an engine whose vectors are not the model's.

    Raises:
        BundleError: which gates failed, and the text that agrees least.
    """
    if checked.failed:
        raise BundleError(
            f"{bundle}: engine {checked.runtime} on {checked.device} does not give the vectors "
            f"that were published: {', '.join(checked.failed)} over {checked.n} check texts, "
            f"worst {checked.worst[:60]!r}; load with another engine, or look at all of them with "
            f"python -m pipeline.verify {bundle} --run"
        )
