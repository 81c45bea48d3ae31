"""Close a night: keep its records, judge them, show them."""

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from pipeline.errors import HistoryError
from pipeline.history.judge.night import Judgement, judge
from pipeline.history.judge.rerun import RerunJob, time_beside
from pipeline.history.judge.slower import ANCHOR, PREVIOUS, Beside
from pipeline.history.keep.anchors import Anchor, find_anchor, keep_anchor
from pipeline.history.keep.database import open_database, read_entries, write_entries
from pipeline.history.keep.extract import make_entry, manifest_sha256
from pipeline.history.keep.journal import keep_night
from pipeline.history.keep.pages import keep_page
from pipeline.history.keep.records import Entry, Finding, utc
from pipeline.history.keep.status import State, Status
from pipeline.history.show.render import render

log = logging.getLogger(__name__)


def close_night(
    database: Path, night: str, statuses: Sequence[Status], directory: Path
) -> tuple[Finding, ...]:
    """Append a night's cells to the database, judge them, and render the trend into ``directory``.

    Where a cell looks slower than it was, older bundles are timed beside the new one first, which
    takes minutes; not in a night that was stopped. Closing a night again replaces it. The entries
    are written as JSON lines before anything else, beside the database or in ``directory``.

    Raises:
        HistoryError: a cell that has not ended, or the database or ``directory`` cannot be written;
            the message names the file that holds the night's entries.
    """
    night = utc(night)
    entries = [make_entry(s, night, keep_page(database, night, s)) for s in statuses]
    kept = keep_night(database, night, entries, directory)
    try:
        with open_database(database, create=True) as connection:
            past = read_entries(connection, before=night)
        stopped = any(status.state is State.stopped for status in statuses)
        judged = [
            _judge(database, status, entry, stopped, [e for e in past if e.cell == entry.cell])
            for status, entry in zip(statuses, entries, strict=True)
        ]
        entries = [replace(e, findings=j.findings) for e, j in zip(entries, judged, strict=True)]
        kept = keep_night(database, night, entries, directory)
        with open_database(database, create=True) as connection:
            write_entries(connection, entries)
            everything = read_entries(connection)
    except HistoryError as error:
        raise HistoryError(
            f"{error}; the night is kept: python -m pipeline.history --database {database} "
            f"import {kept}"
        ) from error
    for status, judgement in zip(statuses, judged, strict=True):
        if judgement.renew_anchor and status.bundle is not None:
            keep_anchor(database, status.cell, night, Path(status.bundle))
    render(everything, directory, database=database)
    findings = tuple(finding for entry in entries for finding in entry.findings)
    for finding in findings:
        log.log(
            logging.WARNING if finding.fails else logging.INFO, "%s: %s", finding.cell, finding.text
        )
    return findings


def _judge(
    database: Path, status: Status, entry: Entry, stopped: bool, past: Sequence[Entry]
) -> Judgement:
    anchor = find_anchor(database, entry.cell)

    def rerun(artifact: str, metric: str) -> list[Beside]:
        if stopped:
            return [Beside(name=PREVIOUS, reason="the night was stopped")]
        return _rerun(status, entry, anchor, artifact, metric)

    return judge(past, entry, anchor=None if anchor is None else anchor.night, rerun=rerun)


def _rerun(
    status: Status, entry: Entry, anchor: Anchor | None, artifact: str, metric: str
) -> list[Beside]:
    """Time the bundle of last night and the anchor beside tonight's, each once."""
    older: dict[str, str] = {}
    previous = None if status.previous is None else manifest_sha256(Path(status.previous))
    if previous is not None:
        older[PREVIOUS] = str(status.previous)
    if anchor is not None and (
        status.previous is None or manifest_sha256(anchor.bundle) != previous
    ):
        older[ANCHOR] = str(anchor.bundle)
    if status.bundle is None or not older:
        return []
    log.info("%s %s: %s looks slower: timed beside older bundles …", entry.cell, artifact, metric)
    measured = entry.artifact(artifact)
    device = None if measured is None else measured.device
    return time_beside(
        RerunJob(
            bundle=status.bundle,
            older=older,
            engine=artifact,
            latency=metric == "latency_speedup",
            device=device,
            machine=entry.machine,
            cuda=device == "cuda",
        )
    )
