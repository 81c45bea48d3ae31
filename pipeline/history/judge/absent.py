"""Find what a night did not measure, and the gates that kept a cell from being published."""

from collections.abc import Sequence

from pipeline.history.keep.records import Entry, Finding, Kind, label_night

_KINDS: dict[str, Kind] = {
    "rejected": "rejected",
    "error": "error",
    "crashed": "crashed",
    "timeout": "timeout",
    "stopped": "stopped",
}


def unpublished(tonight: Entry) -> list[Finding]:
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
            kind=_KINDS.get(tonight.state, "missing"),
            text=f"not measured: {tonight.state}{where}{why}",
            fails=tonight.state != "skipped",  # the cell that it waited for fails the night
            rule="state",
        )
    ]


def gone(past: Sequence[Entry], tonight: Entry) -> list[Finding]:
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
            f"on {label_night(last.night, [tonight.night])} it was",
            fails=True,
            rule="executed",
        )
        for artifact in last.artifacts
        if artifact.reason is None and tonight.artifact(artifact.name) is None
    ]
