"""Judge what a night shows of a cell: failed gates, artifacts gone, lost speed, steps."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from pipeline.history.judge.absent import gone, unpublished
from pipeline.history.judge.metrics import SPEEDS
from pipeline.history.judge.series import baseline
from pipeline.history.judge.slower import ANCHOR, Beside, Suspicion, conclude, has_improved, suspect
from pipeline.history.judge.stepped import new_steps
from pipeline.history.keep.records import Entry, Finding
from pipeline.report import numbers

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
        return Judgement(findings=tuple(unpublished(tonight)), renew_anchor=False)
    findings = gone(past, tonight)
    improved, useless = False, False
    for artifact in tonight.artifacts:
        for metric in SPEEDS:
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
            useless |= any(one.name == ANCHOR and one.reason is not None for one in beside)
            findings.append(
                _slower((tonight.cell, artifact.name, metric), figure.value, suspicion, beside)
            )
    suspected = {(f.artifact, f.metric) for f in findings}
    findings += [f for f in new_steps(past, tonight) if (f.artifact, f.metric) not in suspected]
    regressed = any(f.kind == "regression" for f in findings)
    return Judgement(
        findings=tuple(findings),
        renew_anchor=not regressed and (anchor is None or improved or useless),
    )


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
    return max(anchor, *moved) if moved else anchor


def _slower(
    where: tuple[str, str, str], value: float, suspicion: Suspicion, beside: Sequence[Beside]
) -> Finding:
    """Put a suspicion and what came of it into words; ``where`` is cell, artifact and metric."""
    cell, artifact, metric = where
    kind = conclude(beside)
    of = "last" if suspicion.rule == "step" else "anchor's first"
    seen = (
        f"{SPEEDS[metric]} {numbers.ratio(value)}"
        if suspicion.rule == "step"
        else f"{SPEEDS[metric]} over the last five nights"
    )
    level = f"{numbers.ratio(suspicion.expected)}, the median of the {of} {suspicion.nights} nights"
    meaning = {
        "regression": "Confirmed: ",
        "machine": "An older bundle is no faster now: ",
        "step": "Not confirmed: ",
    }[kind]
    told = [one for one in beside if one.slower] or beside
    sides = "; ".join(map(_describe, told)) or "there is no older bundle to time beside it"
    return Finding(
        cell=cell,
        artifact=artifact,
        metric=metric,
        kind=kind,
        text=f"{seen} is {100 * suspicion.loss:.1f} % below {level}. {meaning}{sides}.",
        fails=kind == "regression",
        rule=suspicion.rule,
    )


def _describe(beside: Beside) -> str:
    """Return the repetition that shows least, or why there is none."""
    if beside.reason is not None:
        return f"{beside.name} not timed ({beside.reason})"
    mildest = max(beside.speedups, key=lambda speedup: speedup.median)
    return f"{numbers.ratio(mildest.median)} ({numbers.span(mildest.ci95)}) beside {beside.name}"
