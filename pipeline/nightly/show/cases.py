"""Turn a night into JUnit test cases: one for each cell, and for each finding of the history."""

from pipeline.history.keep.records import Finding
from pipeline.history.keep.status import State, Status
from pipeline.nightly.show.summary import Summary, news
from pipeline.report.junit import JUnitCase, to_xml


def to_junit(summary: Summary) -> str:
    """Return the night as JUnit XML: a failed gate is a failure, anything else an error.

    A case for each cell, and one for each finding that says more than how a cell ended.
    """
    problems = [
        JUnitCase(classname="nightly", name="night", outcome="error", message=problem)
        for problem in summary.problems
    ]
    cases = [*map(_cell, summary.statuses), *map(_finding, news(summary)), *problems]
    return to_xml(f"night {summary.night}", cases)


def _cell(status: Status) -> JUnitCase:
    if status.state is State.published:
        return JUnitCase(classname=status.device, name=status.cell, seconds=status.seconds)
    if status.state is State.skipped:
        return JUnitCase(
            classname=status.device,
            name=status.cell,
            outcome="skipped",
            message=status.message or "",
        )
    where = f" in {status.stage}" if status.stage else ""
    return JUnitCase(
        classname=status.device,
        name=status.cell,
        outcome="failure" if status.state is State.rejected else "error",
        message=f"{status.state}{where}: {status.message or ''}",
        kind=status.state,
        detail=status.command,
        seconds=status.seconds,
    )


def _finding(finding: Finding) -> JUnitCase:
    return JUnitCase(
        classname=finding.cell,
        name=f"{finding.metric} {finding.kind}",
        outcome="failure" if finding.fails else "passed",
        message=finding.text,
    )
