"""Collect one metric of one artifact of one cell, on one machine, night by night."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.history.keep.records import Entry, Finding
from pipeline.vectors import DoubleArray

SLOWER_RULES = ("step", "creep")
"""The rules whose regressions keep a night out of what later nights are compared with."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """Nights that tonight compares with, oldest first, and their values.

    A night is in it where the cell was published, on the machine of tonight, and found no slower
    than before (or that was accepted since); none from before the level that was accepted last.
    """

    nights: tuple[str, ...]
    values: DoubleArray

    def since(self, night: str) -> "Series":
        """Return the part from a night on."""
        kept = [i for i, own in enumerate(self.nights) if own >= night]
        return Series(nights=tuple(self.nights[i] for i in kept), values=self.values[kept])


def line(
    past: Sequence[Entry], artifact: str, metric: str, *, machine: str | None, device: str | None
) -> list[tuple[Entry, float]]:
    """Return the published nights of ``past`` that measured a metric on a machine and device."""
    found = []
    for entry in past:
        if entry.state != "published" or entry.machine != machine:
            continue
        measured, figure = entry.artifact(artifact), entry.figure(artifact, metric)
        if measured is not None and figure is not None and measured.device == device:
            found.append((entry, figure.value))
    return found


def baseline(past: Sequence[Entry], tonight: Entry, artifact: str, metric: str) -> Series:
    """Return what tonight's figure is compared with; ``past`` is the cell's before tonight."""
    own = tonight.artifact(artifact)
    device = None if own is None else own.device
    start = _accepted_from(past, artifact, metric)
    kept = [
        (entry.night, value)
        for entry, value in line(past, artifact, metric, machine=tonight.machine, device=device)
        if entry.night >= start and not _is_slower(entry, artifact, metric)
    ]
    return Series(
        nights=tuple(night for night, _ in kept), values=np.array([value for _, value in kept])
    )


def _accepted_from(past: Sequence[Entry], artifact: str, metric: str) -> str:
    """Return the first night of the level that was accepted last; empty where none was."""
    accepted = [
        (finding.accepted, entry.night)
        for entry in past
        for finding in entry.findings
        if finding.accepted and (finding.artifact, finding.metric) == (artifact, metric)
    ]
    if not accepted:
        return ""
    last = max(when for when, _ in accepted)
    return min(night for when, night in accepted if when == last)


def _is_slower(entry: Entry, artifact: str, metric: str) -> bool:
    return any(
        is_open(finding) and (finding.artifact, finding.metric) == (artifact, metric)
        for finding in entry.findings
    )


def is_open(finding: Finding) -> bool:
    """Whether a finding keeps its night out of what later nights compare with: until accepted."""
    return (
        finding.kind == "regression" and finding.rule in SLOWER_RULES and finding.accepted is None
    )
