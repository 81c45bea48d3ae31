"""Sum up what a night came to: its exit code, and words for terminals, CI and programs."""

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from pipeline.flow.outcome_file import read_outcome
from pipeline.history.keep.records import Finding
from pipeline.history.keep.status import State, Status
from pipeline.nightly.cells.built import first_status
from pipeline.nightly.cells.cell import LOG_FILE, OUTCOME_FILE
from pipeline.nightly.cells.matrix import Cell
from pipeline.nightly.night import Night


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """A night's cells in the matrix's order, the history's findings, what went wrong besides."""

    night: str
    directory: Path
    statuses: tuple[Status, ...]
    findings: tuple[Finding, ...] = ()
    problems: tuple[str, ...] = ()

    @property
    def exit_code(self) -> int:
        """0: all published. 2: failed gates, what they skipped, or findings. 1: anything worse."""
        states = {status.state for status in self.statuses}
        if self.problems or states - {State.published, State.rejected, State.skipped}:
            return 1
        unpublished = states & {State.rejected, State.skipped}
        failed = bool(unpublished) or any(finding.fails for finding in self.findings)
        return 2 if failed else 0

    @property
    def headline(self) -> str:
        """How many published, and how the others ended."""
        counts = {s: sum(c.state is s for c in self.statuses) for s in State}
        others = [f"{n} {s}" for s, n in counts.items() if n and s is not State.published]
        published = f"{counts[State.published]} of {len(self.statuses)} cells published"
        return ", ".join([published, *others])


def read_statuses(
    night: Night, reasons: Mapping[str, str], *, stopped: bool = False
) -> tuple[Status, ...]:
    """Return each cell's status; a cell without a final one is missing, with the reason.

    In a night that was ``stopped`` it is stopped with it.
    """
    state = State.stopped if stopped else State.missing
    return tuple(_final(night.of(cell), cell, state, reasons) for cell in night.cells)


def _final(directory: Path, cell: Cell, state: State, reasons: Mapping[str, str]) -> Status:
    status = Status.read(directory)
    if status is not None and status.state.is_told:
        return status
    begun = status or first_status(cell, state)
    reason = reasons.get(cell.name) or begun.message or "it has no status"
    stage = read_outcome(directory / OUTCOME_FILE).stage
    return replace(begun, state=state, stage=stage, message=reason)


def to_json(summary: Summary) -> dict[str, Any]:
    """Return ``summary.json``, schema 1."""
    return {
        "schema": 1,
        "night": summary.night,
        "exit_code": summary.exit_code,
        "headline": summary.headline,
        "cells": [asdict(status) for status in summary.statuses],
        "findings": [asdict(finding) for finding in summary.findings],
        "problems": list(summary.problems),
    }


def to_text(summary: Summary) -> str:
    """Return the summary for a terminal: a line a cell, for each failure how to see it again."""
    width = max(len(status.cell) for status in summary.statuses)
    lines = [f"night {summary.night}: {summary.headline}"]
    for status in summary.statuses:
        line = f"  {status.cell:<{width}}  {status.state:<9}  {status.seconds:7.1f} s"
        lines.append(f"{line}  {_near(status.bundle)}" if status.bundle else line)
        lines += [f"      {line}" for line in _failure(summary, status)]
    lines += [f"  {_finding(finding)}" for finding in news(summary)]
    lines += [f"  error: {problem}" for problem in summary.problems]
    return "\n".join([*lines, f"{_near(summary.directory)}/summary.md"])


def to_markdown(summary: Summary) -> str:
    """Return the summary for a CI job's page; what failed comes with its command."""
    lines = [f"## Night {summary.night}: {summary.headline}", ""]
    lines += ["| cell | target | state | stage | seconds | message |", "|---|---|---|---|---:|---|"]
    for status in summary.statuses:
        told = (status.cell, status.target or "", status.state, status.stage or "")
        cells = (*told, f"{status.seconds:.1f}")
        lines.append(f"| {' | '.join(map(_escape, (*cells, status.message or '')))} |")
    for status in summary.statuses:
        if status.state in (State.published, State.skipped):
            continue
        lines += ["", f"**{_escape(status.cell)}**: {status.state}{_in(status)}", ""]
        lines += ["```bash", status.command, "```"]
    notes = [_finding(finding) for finding in news(summary)]
    notes += [f"error: {problem}" for problem in summary.problems]
    lines += ["", *(f"- {_escape(note)}" for note in notes)] if notes else []
    return "\n".join(lines) + "\n"


def news(summary: Summary) -> list[Finding]:
    """Return the findings but those that only repeat how a cell ended."""
    published = {status.cell for status in summary.statuses if status.state is State.published}
    said = [f for f in summary.findings if f.metric == "state" or f.rule == "gate"]
    return [f for f in summary.findings if f not in said or f.cell in published]


def _failure(summary: Summary, status: Status) -> list[str]:
    if status.state is State.published:
        return []
    log = summary.directory / status.cell / LOG_FILE
    lines = [f"{status.state}{_in(status)}: {status.message or 'see its log'}"]
    if status.state is State.skipped:
        return lines
    lines.append(f"reproduce: {status.command}")
    return [*lines, f"log: {_near(log)}"] if log.is_file() else lines


def _in(status: Status) -> str:
    if status.stage:
        return f" in {status.stage}"
    return " before the first stage" if status.started else ""


def _finding(finding: Finding) -> str:
    weight = "fails the night" if finding.fails else "note"
    return f"{finding.cell} {finding.metric}, {finding.kind} ({weight}): {finding.text}"


def _near(path: str | Path) -> str:
    """Return a path as seen from here where that is shorter."""
    relative = os.path.relpath(path)
    return min(str(path), relative, key=len)


def _escape(words: str) -> str:
    for mark in "\\`*[]<>|":
        words = words.replace(mark, f"\\{mark}")
    return " ".join(words.split())
