"""gates: which figure is held to which threshold, and what the settings may say."""

import math
from dataclasses import replace
from typing import Any

import pytest

from pipeline.config import GatesConfig, NumericType, PublishedGatesConfig
from pipeline.errors import ConfigError
from pipeline.measure.gates import Against, Evidence, apply_gates, check_gates
from pipeline.measure.results import Gate
from pipeline.measure.speed.intervals import Speedup

CONFIG = GatesConfig(
    cosine_mean={"fp32": 0.999, "int8": 0.9},
    cosine_p1={"int8": 0.8},
    tasks={"int8": -2.0},
    invariance={"int8": 0.99},
    vectors_finite=1.0,
    vectors_nonzero=1.0,
    speed={"int8": 1.0, "fp32": None},
    published=PublishedGatesConfig(cosine_mean=-0.01, tasks=-1.0, speed=0.9),
)
AGAINST = Against(
    cosine_mean=-0.001,
    tasks={"sts": -0.5},
    speed=Speedup(median=1.0, ci95=(0.95, 1.05)),
)
GOOD = Evidence(
    cosine_mean=0.95,
    cosine_p1=0.85,
    tasks={"sts": -1.5, "search": 0.5},
    finite=1.0,
    nonzero=1.0,
    invariance={"batch": 0.999, "padding": 0.995},
    speed=Speedup(median=2.0, ci95=(1.5, 2.5)),
    published=AGAINST,
)


def applied(**changes: Any) -> dict[str, Gate]:
    return {
        gate.name: gate for gate in apply_gates(replace(GOOD, **changes), NumericType.int8, CONFIG)
    }


def test_every_gate_and_the_setting_it_comes_from() -> None:
    seen = [
        (g.name, g.threshold, g.observed, g.relative_to, g.setting)
        for g in apply_gates(GOOD, NumericType.int8, CONFIG)
    ]
    root = "validate.gates."
    assert seen == [
        ("cosine.mean", 0.9, 0.95, None, f"{root}cosine_mean.int8"),
        ("cosine.p1", 0.8, 0.85, None, f"{root}cosine_p1.int8"),
        ("tasks.sts", -2, -1.5, "fp32", f"{root}tasks.int8"),
        ("tasks.search", -2, 0.5, "fp32", f"{root}tasks.int8"),
        ("invariance.batch", 0.99, 0.999, None, f"{root}invariance.int8"),
        ("invariance.padding", 0.99, 0.995, None, f"{root}invariance.int8"),
        ("vectors.finite", 1, 1, None, f"{root}vectors_finite"),
        ("vectors.nonzero", 1, 1, None, f"{root}vectors_nonzero"),
        ("speed", 1, 2.5, "fp32", f"{root}speed.int8"),
        ("published.cosine_mean", -0.01, -0.001, "published", f"{root}published.cosine_mean"),
        ("published.tasks.sts", -1, -0.5, "published", f"{root}published.tasks"),
        ("published.speed", 0.9, 1.05, "published", f"{root}published.speed"),
    ]
    assert all(gate.passed for gate in apply_gates(GOOD, NumericType.int8, CONFIG))


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("cosine.mean", {"cosine_mean": 0.89}),
        ("cosine.mean", {"cosine_mean": math.nan}),
        ("cosine.p1", {"cosine_p1": 0.79}),
        ("tasks.sts", {"tasks": {"sts": -2.1}}),
        ("invariance.padding", {"invariance": {"batch": 1.0, "padding": 0.98}}),
        ("vectors.finite", {"finite": 0.999}),
        ("vectors.nonzero", {"nonzero": 0.999}),
        ("speed", {"speed": Speedup(median=0.8, ci95=(0.7, 0.99))}),
        ("published.cosine_mean", {"published": replace(AGAINST, cosine_mean=-0.02)}),
        ("published.tasks.sts", {"published": replace(AGAINST, tasks={"sts": -1.1})}),
        (
            "published.speed",
            {"published": replace(AGAINST, speed=Speedup(median=0.8, ci95=(0.7, 0.89)))},
        ),
    ],
)
def test_one_bad_figure_fails_its_gate_only(name: str, changes: dict[str, Any]) -> None:
    assert [gate.name for gate in applied(**changes).values() if not gate.passed] == [name]


def test_a_slow_median_passes_while_the_interval_reaches_the_threshold() -> None:
    assert applied(speed=Speedup(median=0.8, ci95=(0.6, 1.0)))["speed"].passed


def test_what_was_not_measured_has_no_gate() -> None:
    names = set(applied(cosine_p1=None, tasks={}, invariance={}, speed=None, published=None))
    assert names == {"cosine.mean", "vectors.finite", "vectors.nonzero"}


def test_null_and_a_type_without_a_threshold_turn_a_gate_off() -> None:
    names = [gate.name for gate in apply_gates(GOOD, NumericType.fp32, CONFIG)]
    assert names[0] == "cosine.mean"
    assert not {"cosine.p1", "tasks.sts", "invariance.batch", "speed"} & set(names)
    off = replace(CONFIG, vectors_finite=None, published=PublishedGatesConfig())
    assert [gate.name for gate in apply_gates(GOOD, NumericType.fp32, off)] == [
        "cosine.mean",
        "vectors.nonzero",
    ]


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (GatesConfig(speed={"int9": 1.0}), "validate.gates.speed.int9: no such type"),
        (GatesConfig(cosine_p1={"int8": math.nan}), "validate.gates.cosine_p1.int8=nan"),
        (GatesConfig(vectors_finite=math.nan), "validate.gates.vectors_finite=nan"),
        (
            GatesConfig(published=PublishedGatesConfig(speed=math.nan)),
            "validate.gates.published.speed=nan",
        ),
    ],
)
def test_thresholds_that_mean_nothing_are_refused(config: GatesConfig, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        check_gates(config)


def test_thresholds_and_nulls_are_accepted() -> None:
    check_gates(CONFIG)
