"""Find the steps that a line took on one of the last nights."""

from collections.abc import Iterator, Sequence

from pipeline.history.judge.metrics import has_steps, least_step
from pipeline.history.judge.series import line
from pipeline.history.judge.steps import find_steps
from pipeline.history.keep.records import ArtifactEntry, Entry, Finding, label_night

NEW = 5
"""A step is told when it is at most so many nights old."""


def new_steps(past: Sequence[Entry], tonight: Entry) -> Iterator[Finding]:
    """Yield the last step of each line where it is new and no earlier night told of it."""
    for artifact in tonight.artifacts:
        for metric, figure in artifact.figures.items():
            if figure is not None and has_steps(metric):
                yield from _new_step(past, tonight, artifact, metric)


def _new_step(
    past: Sequence[Entry], tonight: Entry, artifact: ArtifactEntry, metric: str
) -> Iterator[Finding]:
    name = artifact.name
    points = line([*past, tonight], name, metric, machine=tonight.machine, device=artifact.device)
    values = [value for _, value in points]
    for step in find_steps(values, least=least_step(metric, values))[-1:]:
        night = points[step.index][0].night
        if len(points) - step.index > NEW or _is_told(past, name, metric, night):
            continue
        when = label_night(night, [entry.night for entry, _ in points])
        yield Finding(
            cell=tonight.cell,
            artifact=name,
            metric=metric,
            kind="step",
            text=f"{metric} stepped from {step.before:.5g} to {step.after:.5g} on {when}",
            fails=False,
            rule="pelt",
        )


def _is_told(past: Sequence[Entry], artifact: str, metric: str, since: str) -> bool:
    return any(
        (finding.artifact, finding.metric) == (artifact, metric)
        for entry in past
        if entry.night >= since
        for finding in entry.findings
    )
