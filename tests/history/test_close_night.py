"""close_night: a night is kept, judged and shown, whatever is broken around it."""

import json
import os
import sqlite3
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
from some_nights import night, report, status, steady

from pipeline.errors import HistoryError
from pipeline.history import close
from pipeline.history.close import close_night
from pipeline.history.judge.rerun import RerunJob
from pipeline.history.judge.slower import ANCHOR, PREVIOUS, Beside
from pipeline.history.keep.anchors import find_anchor, keep_anchor
from pipeline.history.keep.database import open_database, read_entries
from pipeline.history.keep.journal import read_lines
from pipeline.history.keep.records import Finding
from pipeline.history.keep.status import State, Status
from pipeline.measure.speed.intervals import Speedup

SLOWER = Speedup(median=0.9, ci95=(0.88, 0.92))

Publish = Callable[[int, float], tuple[str, Status]]


@pytest.fixture
def publish(tmp_path: Path) -> Publish:
    """Return a function that publishes night after night, as the runner hands it in."""

    def do(number: int, speed: float) -> tuple[str, Status]:
        bundle = tmp_path / "bundles" / str(number)
        (bundle / "engines").mkdir(parents=True)
        (bundle / "manifest.json").write_text(json.dumps({"created": number, "config": {}}))
        (bundle / "report.html").write_text(f"the page of night {number}")
        (bundle / "engines" / "a.plan").write_text("plan")
        previous = bundle.with_name(str(number - 1))
        done = status(
            tmp_path / "reports" / str(number),
            report({"onnxruntime": speed}),
            bundle=bundle,
            previous=previous if previous.is_dir() else None,
        )
        return night(number), done

    return do


@pytest.fixture
def jobs(monkeypatch: pytest.MonkeyPatch) -> list[RerunJob]:
    """Collect the reruns that were asked for; each says that tonight's bundle is slower."""
    asked: list[RerunJob] = []

    def time_beside(job: RerunJob) -> list[Beside]:
        asked.append(job)
        return [Beside(name=name, speedups=[SLOWER, SLOWER]) for name in job.older]

    monkeypatch.setattr(close, "time_beside", time_beside)
    return asked


def close_all(
    database: Path, nights: Sequence[tuple[str, Status]], out: Path
) -> tuple[Finding, ...]:
    found: tuple[Finding, ...] = ()
    for moment, done in nights:
        found = close_night(database, moment, [done], out)
    return found


@pytest.mark.slow
def test_nights_are_kept_judged_and_shown(
    publish: Publish, jobs: list[RerunJob], tmp_path: Path
) -> None:
    database, out = tmp_path / "h" / "history.sqlite", tmp_path / "out"
    records = [publish(n, speed) for n, speed in enumerate(steady(range(6)))]
    assert close_all(database, records, out) == ()
    assert jobs == []
    anchor = find_anchor(database, "minilm-int8-cpu")
    assert anchor is not None
    assert anchor.night == night(0)
    plan = anchor.bundle / "engines" / "a.plan"
    assert plan.stat().st_ino == (tmp_path / "bundles/0/engines/a.plan").stat().st_ino

    found = close_all(database, [publish(6, 2.4)], out)
    assert {(f.kind, f.metric, f.fails) for f in found} == {
        ("regression", "speedup", True),
        ("regression", "latency_speedup", True),
    }
    assert [job.latency for job in jobs] == [False, True]
    assert jobs[0].older == {
        PREVIOUS: str(tmp_path / "bundles/5"),
        ANCHOR: str(anchor.bundle),
    }
    assert jobs[0].bundle == str(tmp_path / "bundles/6")
    assert (jobs[0].engine, jobs[0].device, jobs[0].cuda) == ("onnxruntime", "cpu", False)
    kept = database.with_name("history.nights") / "20260829T020000Z.jsonl"
    (line,) = read_lines(kept)
    assert line.findings == found
    with open_database(database) as connection:
        assert len(read_entries(connection)) == 7

    page = (out / "trend.html").read_text("utf-8")
    assert "✕ slower" in page
    link = "../h/history.nights/20260829T020000Z/minilm-int8-cpu.html"
    assert f'<a href="{link}">2026-08-29</a>' in page
    assert (out / link).read_text() == "the page of night 6"
    assert "**regression** minilm-int8-cpu onnxruntime: speed-up 2.40×" in (
        out / "trend.md"
    ).read_text("utf-8")
    suites = ET.parse(out / "trend.junit.xml").getroot()
    assert (suites.get("tests"), suites.get("failures")) == ("3", "2")


@pytest.mark.slow
def test_closing_a_night_again_replaces_it(publish: Publish, tmp_path: Path) -> None:
    database = tmp_path / "history.sqlite"
    _, first = publish(0, 3.0)
    other = status(tmp_path, None, precision="fp16", state=State.timeout)
    close_night(database, night(0), [first, other], tmp_path / "out")
    again = close_night(database, night(0), [first, other], tmp_path / "out")
    assert [(f.cell, f.kind) for f in again] == [("minilm-fp16-cpu", "timeout")]
    with open_database(database) as connection:
        assert [e.cell for e in read_entries(connection)] == ["minilm-fp16-cpu", "minilm-int8-cpu"]


@pytest.mark.slow
def test_a_night_that_was_stopped_is_kept_and_shown_and_times_nothing(
    publish: Publish, jobs: list[RerunJob], tmp_path: Path
) -> None:
    database, out = tmp_path / "history.sqlite", tmp_path / "out"
    close_all(database, [publish(n, speed) for n, speed in enumerate(steady(range(6)))], out)
    moment, slow = publish(6, 2.4)
    left = status(
        tmp_path, None, precision="fp16", state=State.stopped, message="stopped before it ended"
    )
    found = close_night(database, moment, [slow, left], out)
    assert jobs == []
    assert {(f.cell, f.kind, f.fails) for f in found} == {
        ("minilm-int8-cpu", "step", False),
        ("minilm-fp16-cpu", "stopped", True),
    }
    page = (out / "trend.html").read_text("utf-8")
    assert "1 of 2 cells published" in page
    assert "■ stopped" in page
    again = close_night(database, moment, [slow, replace(left, state=State.error)], out)
    assert {f.kind for f in again} == {"regression", "error"}
    assert len(jobs) == 2


@pytest.mark.slow
def test_the_previous_bundle_and_the_anchor_are_timed_once_where_they_are_one(
    publish: Publish, jobs: list[RerunJob], tmp_path: Path
) -> None:
    database = tmp_path / "history.sqlite"
    records = [publish(n, speed) for n, speed in enumerate(steady(range(6)))]
    close_all(database, records, tmp_path / "out")
    keep_anchor(database, "minilm-int8-cpu", night(5), tmp_path / "bundles/5")
    close_all(database, [publish(6, 2.4)], tmp_path / "out")
    assert list(jobs[0].older) == [PREVIOUS]


def test_a_cell_that_has_not_ended_is_refused(tmp_path: Path) -> None:
    running = status(tmp_path, None, state=State.running)
    with pytest.raises(HistoryError, match="minilm-int8-cpu: state 'running', expected one of"):
        close_night(tmp_path / "h.sqlite", night(0), [running], tmp_path / "out")


def test_a_damaged_database_loses_nothing(publish: Publish, tmp_path: Path) -> None:
    database = tmp_path / "history.sqlite"
    database.write_bytes(b"no database " * 50)
    with pytest.raises(HistoryError) as caught:
        close_night(database, night(0), [publish(0, 3.0)[1]], tmp_path / "out")
    kept = tmp_path / "history.nights" / "20260823T020000Z.jsonl"
    assert f"--database {database} import {kept}" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert [entry.state for entry in read_lines(kept)] == ["published"]
    assert database.read_bytes() == b"no database " * 50


@pytest.mark.slow
def test_a_database_that_is_locked_while_judged_loses_nothing(
    publish: Publish, jobs: list[RerunJob], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    database = tmp_path / "history.sqlite"
    records = [publish(n, speed) for n, speed in enumerate(steady(range(6)))]
    close_all(database, records, tmp_path / "out")
    holder = sqlite3.connect(database, isolation_level=None)

    def lock(job: RerunJob) -> list[Beside]:
        if not holder.in_transaction:
            holder.execute("BEGIN IMMEDIATE")
        return [Beside(name=PREVIOUS, speedups=[SLOWER, SLOWER])]

    monkeypatch.setattr(close, "time_beside", lock)
    monkeypatch.setattr("pipeline.history.keep.database.BUSY_S", 0.01)
    with pytest.raises(HistoryError, match=r"locked.*import .*20260829T020000Z.jsonl"):
        close_all(database, [publish(6, 2.4)], tmp_path / "out")
    holder.close()
    (entry,) = read_lines(tmp_path / "history.nights" / "20260829T020000Z.jsonl")
    assert any(finding.fails for finding in entry.findings)


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes everywhere")
def test_a_read_only_directory_loses_nothing(publish: Publish, tmp_path: Path) -> None:
    locked = tmp_path / "locked"
    locked.mkdir(mode=0o500)
    with pytest.raises(HistoryError, match="import"):
        close_night(locked / "h.sqlite", night(0), [publish(0, 3.0)[1]], tmp_path / "out")
    assert list(read_lines(tmp_path / "out" / "20260823T020000Z.jsonl"))


def test_a_trend_that_cannot_be_written_keeps_the_night(publish: Publish, tmp_path: Path) -> None:
    database, out = tmp_path / "history.sqlite", tmp_path / "out"
    out.write_text("a file where a directory should be")
    with pytest.raises(HistoryError, match=r"cannot write the trend.*render DIRECTORY"):
        close_night(database, night(0), [publish(0, 3.0)[1]], out)
    with open_database(database) as connection:
        assert len(read_entries(connection)) == 1


def test_an_anchor_without_room_leaves_the_one_before(
    publish: Publish, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    database = tmp_path / "history.sqlite"
    for n in (0, 1):
        publish(n, 3.0)
    keep_anchor(database, "a/b", night(0), tmp_path / "bundles/0")

    def full(source: Path, target: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pipeline.files.link_or_copy", full)
    keep_anchor(database, "a/b", night(1), tmp_path / "bundles/1")
    anchor = find_anchor(database, "a/b")
    assert anchor is not None
    assert anchor.night == night(0)
    assert [p.name for p in anchor.bundle.parent.iterdir()] == ["20260823T020000Z"]
    monkeypatch.undo()
    keep_anchor(database, "a/b", night(1), tmp_path / "bundles/1")
    assert [p.name for p in anchor.bundle.parent.iterdir()] == ["20260824T020000Z"]
