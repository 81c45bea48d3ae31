"""Hold an artifact's figures to the thresholds of the config: its gates."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from pipeline.config import GatesConfig, NumericType, SearchGatesConfig
from pipeline.errors import ConfigError
from pipeline.measure.quality.search import FORMS
from pipeline.measure.results import Gate
from pipeline.measure.speed.intervals import Speedup

ROOT = "validate.gates"


@dataclass(frozen=True, slots=True, kw_only=True)
class Against:
    """An artifact's figures minus those of the published bundle, and its speed over it."""

    cosine_mean: float
    tasks: Mapping[str, float]
    speed: Speedup


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """What one artifact is held to its gates by; None, or nothing, where it was not measured.

    ``tasks`` holds each task's main metric minus fp32's, in points; ``finite`` and ``nonzero`` the
    shares of vectors that are so; ``invariance`` the lowest cosine of a text with itself, by what
    differs; ``speed`` the ratio to fp32 in ONNX Runtime; ``search_recall`` a search's
    recall@10 by form of vector.
    """

    cosine_mean: float
    cosine_p1: float | None
    tasks: Mapping[str, float]
    finite: float
    nonzero: float
    invariance: Mapping[str, float]
    speed: Speedup | None
    published: Against | None
    search_recall: Mapping[str, float] = field(default_factory=dict)


def check_gates(config: GatesConfig) -> None:
    """Refuse thresholds that mean nothing.

    Raises:
        ConfigError: a numeric type that does not exist, or NaN.
    """
    for setting, threshold in _thresholds(config):
        if threshold is not None and math.isnan(threshold):
            raise ConfigError(f"{setting}={threshold}: expected a number, or null for no gate")
    by_gate = vars(config) | {"plan.attention_fused": config.plan.attention_fused}
    for gate, by_type in by_gate.items():
        for name in by_type if isinstance(by_type, dict) else ():
            if name not in set(NumericType):
                raise ConfigError(
                    f"{ROOT}.{gate}.{name}: no such type; "
                    f"choose one of {', '.join(sorted(NumericType))}"
                )
    _check_forms(config.search)


def _check_forms(config: SearchGatesConfig) -> None:
    for name in config.recall_at_10:
        if name not in FORMS:
            raise ConfigError(
                f"{ROOT}.search.recall_at_10.{name}: no such vectors; "
                f"choose one of {', '.join(FORMS)}"
            )


def apply_gates(evidence: Evidence, kind: NumericType, config: GatesConfig) -> tuple[Gate, ...]:
    """Return a gate for each figure that has a threshold; all pass at or above it.

    Of a speed-up the interval's upper end counts: the gate fails only where all of it lies below
    the threshold.
    """
    thresholds = dict(_thresholds(config))
    return tuple(
        Gate(
            name=name,
            threshold=threshold,
            observed=observed,
            relative_to=relative_to,
            setting=f"{ROOT}.{setting}",
        )
        for name, observed, relative_to, setting in _figures(evidence, kind)
        if (threshold := thresholds.get(f"{ROOT}.{setting}")) is not None
    )


def _figures(evidence: Evidence, kind: NumericType) -> Iterator[tuple[str, float, str | None, str]]:
    """Yield each figure with its gate's name, what it is relative to, and its setting."""
    yield "cosine.mean", evidence.cosine_mean, None, f"cosine_mean.{kind}"
    if evidence.cosine_p1 is not None:
        yield "cosine.p1", evidence.cosine_p1, None, f"cosine_p1.{kind}"
    for task, delta in evidence.tasks.items():
        yield f"tasks.{task}", delta, "fp32", f"tasks.{kind}"
    for difference, cosine in evidence.invariance.items():
        yield f"invariance.{difference}", cosine, None, f"invariance.{kind}"
    for form, recall in evidence.search_recall.items():
        yield f"search.recall_at_10.{form}", recall, "fp32", f"search.recall_at_10.{form}"
    yield "vectors.finite", evidence.finite, None, "vectors_finite"
    yield "vectors.nonzero", evidence.nonzero, None, "vectors_nonzero"
    if evidence.speed is not None:
        yield "speed", evidence.speed.ci95[1], "fp32", f"speed.{kind}"
    if evidence.published is not None:
        against = evidence.published
        yield "published.cosine_mean", against.cosine_mean, "published", "published.cosine_mean"
        for task, delta in against.tasks.items():
            yield f"published.tasks.{task}", delta, "published", "published.tasks"
        yield "published.speed", against.speed.ci95[1], "published", "published.speed"


def _thresholds(config: GatesConfig) -> Iterator[tuple[str, float | None]]:
    """Yield every setting's full key and its value."""
    yield from _flat(ROOT, asdict(config))


def _flat(key: str, value: Mapping[str, Any]) -> Iterator[tuple[str, float | None]]:
    for name, item in value.items():
        if isinstance(item, dict):
            yield from _flat(f"{key}.{name}", item)
        else:
            yield f"{key}.{name}", item
