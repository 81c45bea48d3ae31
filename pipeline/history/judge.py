"""What a night shows of a cell: gates that failed, artifacts that are gone, speed that fell, steps."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from pipeline.history.records import Entry, Finding
from pipeline.history.series import Series, baseline, line
from pipeline.history.slower import Beside, Suspicion, conclude, has_improved, suspect
from pipeline.history.steps import find_steps
from pipeline.report import numbers

SPEEDS = {"speedup": "speed-up over PyTorch fp32", "latency_speedup": "latency, times as short"}
"""Metrics whose loss is confirmed by a rerun; each a ratio to PyTorch fp32 in the same minutes."""

NEW_STEP = 5
"""A step is told when it is at most so many nights old."""

RerunOf = Callable[[str, str], Sequence[Beside]]
"""Times older bundles beside tonight's, for an artifact and a metric."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """A cell's findings, and whether its anchor has to give way to tonight's bundle."""

    findings: tuple[Finding, ...]
    renew_anchor: bool


def judge(
    past: Sequence[Entry], tonight: Entry, *, anchor: str | None, rerun: RerunOf
) -> Judgement:
    """Judge a cell by its own entries before tonight, oldest first.

    ``anchor`` is the night that the anchor bundle is from, None where there is none yet.
    """
    if tonight.state != "published":
        return Judgement(findings=tuple(_unpublished(tonight)), renew_anchor=False)
    findings = _gone(past, tonight)
    improved, useless = False, False
    for artifact in tonight.artifacts:
        for metric, words in SPEEDS.items():
            figure = tonight.figure(artifact.name, metric)
            if figure is None:
                continue
            before = baseline(past, tonight, artifact.name, metric)
            anchored = before.since(_level_from(past, artifact.name, metric, anchor))
            suspicion = suspect(before, figure.value, anchored)
            if suspicion is None:
                improved |= has_improved(before, figure.value, anchored)
                continue
            beside = rerun(artifact.name, metric)
            useless |= any(one.name == "anchor" and one.reason is not None for one in beside)
            findings.append(
                _slower(tonight.cell, artifact.name, metric, words, figure.value, suspicion, beside)
            )
    suspected = {(f.artifact, f.metric) for f in findings}
    findings += [f for f in _steps(past, tonight) if (f.artifact, f.metric) not in suspected]
    regressed = any(f.kind == "regression" for f in findings)
    return Judgement(
        findings=tuple(findings),
        renew_anchor=not regressed and (anchor is None or improved or useless),
    )


def _unpublished(tonight: Entry) -> list[Finding]:
    """Name each gate that failed; a cell that ended otherwise was not measured."""
    if tonight.state == "rejected" and tonight.failed_gates:
        return [
            Finding(
                cell=tonight.cell,
                metric="gates",
                kind="regression",
                text=f"gate failed: {gate}",
                fails=True,
                rule="gate",
            )
            for gate in tonight.failed_gates
        ]
    where = f" in {tonight.stage}" if tonight.stage else ""
    why = f": {tonight.message}" if tonight.message else ""
    return [
        Finding(
            cell=tonight.cell,
            metric="state",
            kind="missing",
            text=f"not measured: {tonight.state}{where}{why}",
            fails=True,
            rule="state",
        )
    ]


def _gone(past: Sequence[Entry], tonight: Entry) -> list[Finding]:
    """Name the artifacts that ran on the last published night on this machine and not tonight."""
    nights = (e for e in reversed(past) if e.state == "published" and e.machine == tonight.machine)
    last = next(nights, None)
    if last is None:
        return []
    reasons = {a.name: a.reason for a in tonight.artifacts}
    return [
        Finding(
            cell=tonight.cell,
            artifact=artifact.name,
            metric="executed",
            kind="missing",
            text=f"not executed: {reasons.get(artifact.name) or 'not in the report'}; "
            f"on {last.night[:10]} it was",
            fails=True,
            rule="executed",
        )
        for artifact in last.artifacts
        if artifact.reason is None and tonight.artifact(artifact.name) is None
    ]


def _level_from(past: Sequence[Entry], artifact: str, metric: str, anchor: str | None) -> str:
    """Return the night that the anchor's level is measured from.

    Its own night, or that of a later rerun in which it was as slow as tonight's bundle: then the
    machine changed, and so did its level.
    """
    if anchor is None:
        return "~"  # later than any night
    moved = [
        entry.night
        for entry in past
        for f in entry.findings
        if (f.kind, f.rule, f.artifact, f.metric) == ("machine", "creep", artifact, metric)
    ]
    return max([anchor, *moved])


def _slower(
    cell: str,
    artifact: str,
    metric: str,
    words: str,
    value: float,
    suspicion: Suspicion,
    beside: Sequence[Beside],
) -> Finding:
    kind = conclude(beside)
    level = (
        f"the median of the last {suspicion.nights} nights"
        if suspicion.rule == "step"
        else f"the anchor's first {suspicion.nights} nights, over the last five nights"
    )
    seen = f"{words} {numbers.ratio(value)}: {100 * suspicion.loss:.1f} % below {level}"
    meaning = {
        "regression": "confirmed beside an older bundle",
        "machine": "an older bundle is no faster now: machine, driver or noise",
        "step": "not confirmed: no older bundle could be timed beside it",
    }
    return Finding(
        cell=cell,
        artifact=artifact,
        metric=metric,
        kind=kind,
        text=f"{seen} ({numbers.ratio(suspicion.expected)}); {meaning[kind]}"
        + "".join(f"; {_describe(one)}" for one in beside),
        fails=kind == "regression",
        rule=suspicion.rule,
    )


def _describe(beside: Beside) -> str:
    if beside.reason is not None:
        return f"{beside.name}: not timed: {beside.reason}"
    runs = ", ".join(f"{s.median:.3f}× ({numbers.span(s.ci95, '.3f')})" for s in beside.speedups)
    return f"tonight's against {beside.name}: {runs}"


def _steps(past: Sequence[Entry], tonight: Entry) -> list[Finding]:
    """Name steps of a line that are new: not told on an earlier night."""
    found = []
    for artifact in tonight.artifacts:
        for metric in artifact.figures:
            least = least_step(metric)
            if least is None or tonight.figure(artifact.name, metric) is None:
                continue
            points = line(
                [*past, tonight],
                artifact.name,
                metric,
                machine=tonight.machine,
                device=artifact.device,
            )
            for step in find_steps([value for _, value in points], least=least)[-1:]:
                night = points[step.index][0].night
                if len(points) - step.index <= NEW_STEP and not _told(
                    past, artifact.name, metric, night
                ):
                    text = f"{metric} stepped from {step.before:.5g} to {step.after:.5g} on {night[:10]}"
                    found.append(
                        Finding(
                            cell=tonight.cell,
                            artifact=artifact.name,
                            metric=metric,
                            kind="step",
                            text=text,
                            fails=False,
                            rule="pelt",
                        )
                    )
    return found


def least_step(metric: str) -> float | None:
    """Return the smallest step that means something; None for metrics without steps."""
    if metric in SPEEDS:
        return 0.02
    if metric == "cosine_mean":
        return 1e-5
    return 0.05 if metric.startswith("task.") and not metric.endswith(".delta") else None


def _told(past: Sequence[Entry], artifact: str, metric: str, since: str) -> bool:
    return any(
        (f.artifact, f.metric) == (artifact, metric)
        for entry in past
        if entry.night >= since
        for f in entry.findings
    )


__all__ = ["SPEEDS", "Judgement", "RerunOf", "Series", "judge", "least_step"]
