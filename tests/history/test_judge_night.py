"""judge: what fails a night, what does not, and what the nights after compare with."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from some_nights import kept, night, report, steady

from pipeline.history.judge.night import judge
from pipeline.history.judge.series import baseline
from pipeline.history.judge.slower import ANCHOR, PREVIOUS, Beside
from pipeline.history.judge.steps import find_steps, noise
from pipeline.history.keep.records import Entry, Finding
from pipeline.history.keep.status import State
from pipeline.measure.speed.intervals import Speedup

SLOWER = Speedup(median=0.9, ci95=(0.88, 0.92))
EQUAL = Speedup(median=1.0, ci95=(0.98, 1.02))


def published(number: int, speed: float, cosine: float = 0.9995, cpu: str = "AMD EPYC") -> Entry:
    return kept(number, report({"onnxruntime": speed}, cosine, cpu=cpu))


def nights(count: int, speed: float = 3.0) -> list[Entry]:
    return [published(n, value) for n, value in enumerate(steady(range(count), speed))]


class Reruns:
    """Older bundles that answer what they are told to, and count how often they were asked."""

    def __init__(self, *beside: Beside) -> None:
        self.beside = beside
        self.asked: list[tuple[str, str]] = []

    def __call__(self, artifact: str, metric: str) -> Sequence[Beside]:
        self.asked.append((artifact, metric))
        return self.beside


def findings(
    past: Sequence[Entry], tonight: Entry, rerun: Reruns | None = None, anchor: str | None = None
) -> dict[str, Finding]:
    """Return the findings by metric."""
    judged = judge(past, tonight, anchor=anchor, rerun=rerun or Reruns())
    return {finding.metric: finding for finding in judged.findings}


def test_a_steady_night_finds_nothing_and_reruns_nothing() -> None:
    rerun = Reruns()
    assert findings(nights(12), published(12, 2.98), rerun) == {}
    assert rerun.asked == []


def test_a_slowdown_that_the_rerun_confirms_fails_the_night() -> None:
    rerun = Reruns(Beside(name=PREVIOUS, speedups=[SLOWER, SLOWER]))
    found = findings(nights(12), published(12, 2.7), rerun)
    assert set(found) == {"speedup", "latency_speedup"}
    assert all(f.kind == "regression" and f.fails for f in found.values())
    assert found["speedup"].text == (
        "speed-up 2.70× is 10.0 % below 3.00×, the median of the last 10 nights. "
        "Confirmed: 0.90× (0.88 to 0.92) beside the previous bundle."
    )


def test_an_old_bundle_that_is_as_slow_does_not_fail_the_night() -> None:
    rerun = Reruns(Beside(name=PREVIOUS, speedups=[EQUAL, EQUAL]))
    found = findings(nights(12), published(12, 2.7), rerun)["speedup"]
    assert (found.kind, found.fails) == ("machine", False)


def test_a_rerun_that_confirms_only_once_does_not_fail_the_night() -> None:
    rerun = Reruns(Beside(name=PREVIOUS, speedups=[SLOWER, EQUAL]))
    found = findings(nights(12), published(12, 2.7), rerun)["speedup"]
    assert (found.kind, found.fails) == ("machine", False)


@pytest.mark.parametrize("beside", [(), (Beside(name=PREVIOUS, reason="BundleError: no"),)])
def test_what_cannot_be_confirmed_does_not_fail_the_night(beside: tuple[Beside, ...]) -> None:
    found = findings(nights(12), published(12, 2.7), Reruns(*beside))["speedup"]
    assert (found.kind, found.fails) == ("step", False)
    assert "Not confirmed" in found.text


def test_slower_than_the_anchor_alone_is_enough() -> None:
    rerun = Reruns(
        Beside(name=PREVIOUS, speedups=[EQUAL, EQUAL]),
        Beside(name=ANCHOR, speedups=[SLOWER, SLOWER]),
    )
    assert findings(nights(12), published(12, 2.7), rerun)["speedup"].kind == "regression"


def test_a_few_nights_are_no_level() -> None:
    rerun = Reruns()
    assert findings(nights(4), published(4, 1.0), rerun) == {}
    assert findings(nights(5), published(5, 1.0), rerun)
    assert rerun.asked


def test_another_machine_s_nights_are_no_level() -> None:
    assert findings(nights(12), published(12, 2.0, cpu="Another CPU")) == {}


def test_a_slower_night_is_no_level_for_the_next_until_it_is_accepted() -> None:
    past = nights(10)
    slower = Finding(
        cell="minilm-int8-cpu",
        artifact="onnxruntime",
        metric="speedup",
        kind="regression",
        text="",
        fails=True,
        rule="step",
    )
    past += [replace(published(n, 2.7), findings=(slower,)) for n in range(10, 18)]
    tonight = published(18, 2.7)
    rerun = Reruns(Beside(name=ANCHOR, speedups=[SLOWER, SLOWER]))
    assert "speedup" in findings(past, tonight, rerun)
    accepted = replace(slower, accepted="2026-09-10T00:00:00+00:00")
    past = [
        replace(e, findings=tuple(accepted for _ in e.findings)) if e.findings else e for e in past
    ]
    assert "speedup" not in findings(past, tonight, rerun)
    level = baseline(past, tonight, "onnxruntime", "speedup")
    assert level.nights == tuple(night(n) for n in range(10, 18))


def test_a_rejected_night_is_no_level_and_names_its_gates() -> None:
    data = report({"onnxruntime": 1.0}, failed_gates=["onnxruntime: cosine.mean 0.9 < 0.99"])
    rejected = kept(12, data, state=State.rejected)
    rerun = Reruns()
    found = findings(nights(12), rejected, rerun)["gates"]
    assert (found.kind, found.fails) == ("regression", True)
    assert found.text == "gate failed: onnxruntime: cosine.mean 0.9 < 0.99"
    assert rerun.asked == []
    past = [*nights(12), rejected]
    assert rejected.night not in baseline(past, published(13, 3), "onnxruntime", "speedup").nights


@pytest.mark.parametrize(
    "state", [State.error, State.crashed, State.timeout, State.missing, State.stopped]
)
def test_a_cell_that_was_not_measured_fails_the_night(state: State) -> None:
    cell = kept(3, None, state=state, message="no room")
    found = findings(nights(3), cell)["state"]
    assert (found.kind, found.fails) == (state, True)
    assert found.text == f"not measured: {state} in validate: no room"


def test_an_artifact_that_is_gone_fails_the_night_once() -> None:
    past = [kept(0, report({"onnxruntime": 3.0, "openvino": 3.5}))]
    tonight = published(1, 3.0)
    found = findings(past, tonight)["executed"]
    assert (found.kind, found.fails, found.artifact) == ("missing", True, "openvino")
    assert found.text == "not executed: not in the report; on 2026-08-23 it was"
    assert findings([*past, tonight], published(2, 3.0)) == {}


def drifting(loss: float, count: int) -> list[Entry]:
    values = 3.0 * (1 - loss) ** np.arange(count)
    return [published(n, v * (1 + 0.005 * (-1) ** n)) for n, v in enumerate(values)]


def test_a_drift_too_slow_for_the_last_ten_nights_is_held_against_the_anchor() -> None:
    past, rerun = drifting(0.002, 30), Reruns(Beside(name=ANCHOR, speedups=[SLOWER, SLOWER]))
    tonight = published(30, 3.0 * 0.998**30)
    assert findings(past, tonight, rerun) == {}
    found = findings(past, tonight, rerun, anchor=night(0))["speedup"]
    assert (found.kind, found.rule) == ("regression", "creep")
    assert "the median of the anchor's first 10 nights" in found.text


def test_a_drift_of_the_machine_moves_the_anchor_s_level() -> None:
    past, rerun = drifting(0.002, 30), Reruns(Beside(name=ANCHOR, speedups=[EQUAL, EQUAL]))
    tonight = published(30, 3.0 * 0.998**30)
    judged = judge(past, tonight, anchor=night(0), rerun=rerun)
    assert {f.kind for f in judged.findings} == {"machine"}
    moved = [*past, replace(tonight, findings=judged.findings)]
    assert findings(moved, published(31, 3.0 * 0.998**31), rerun, anchor=night(0)) == {}


def test_the_first_bundle_is_the_anchor_and_a_faster_one_takes_its_place() -> None:
    steady_nights, rerun = nights(20), Reruns()
    assert judge([], published(0, 3), anchor=None, rerun=rerun).renew_anchor
    past = [*steady_nights, *(published(n, 3.6) for n in range(20, 24))]
    kept = judge(steady_nights, published(20, 3.6), anchor=night(0), rerun=rerun)
    assert not kept.renew_anchor
    assert judge(past, published(24, 3.6), anchor=night(0), rerun=rerun).renew_anchor


def test_an_anchor_that_no_longer_opens_gives_way_unless_something_is_slower() -> None:
    useless = Beside(name=ANCHOR, reason="BundleError: built by another version")
    for last, renewed in ((EQUAL, True), (SLOWER, False)):
        rerun = Reruns(Beside(name=PREVIOUS, speedups=[last, last]), useless)
        judged = judge(nights(12), published(12, 2.7), anchor=night(0), rerun=rerun)
        assert judged.renew_anchor is renewed


def test_a_step_of_accuracy_is_told_once() -> None:
    past = [published(n, 3.0 + 0.01 * (n % 2), 0.9995) for n in range(12)]
    told: list[str] = []
    for n in range(12, 20):
        tonight = published(n, 3.0 + 0.01 * (n % 2), 0.9993)
        judged = judge(past, tonight, anchor=None, rerun=Reruns())
        told += [f.text for f in judged.findings if f.metric == "cosine_mean"]
        assert not any(f.fails for f in judged.findings)
        past.append(replace(tonight, findings=judged.findings))
    assert told == ["cosine_mean stepped from 0.9995 to 0.9993 on 2026-09-04"]


def test_steps_are_found_where_they_are() -> None:
    random = np.random.default_rng(1)
    line = 3 * np.exp(random.normal(0, 0.03, 90))
    assert find_steps(line.tolist(), least=0.06) == ()
    line[50:] *= 0.9
    (step,) = find_steps(line.tolist(), least=0.06)
    assert abs(step.index - 50) <= 1
    assert step.after / step.before == pytest.approx(0.9, abs=0.02)


def test_one_wild_night_is_no_step() -> None:
    line = 3 + 0.03 * np.sin(np.arange(40.0))
    line[20] = 1.0
    assert find_steps(line.tolist(), least=0.06) == ()


def test_levels_nearer_than_what_matters_are_one() -> None:
    assert find_steps([0.9995] * 20 + [0.999499] * 20, least=1e-5) == ()
    assert len(find_steps([0.9995] * 20 + [0.9993] * 20, least=1e-5)) == 1


def test_noise_does_not_see_steps() -> None:
    line = np.random.default_rng(1).normal(0, 0.03, 2000)
    assert noise(line) == pytest.approx(0.03, rel=0.1)
    line[1000:] += 1
    assert noise(line) == pytest.approx(0.03, rel=0.1)
