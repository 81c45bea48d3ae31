"""Summary, JUnit and exit code, with what a history finds; close_night against a stand-in."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest

from pipeline.history.keep.records import Finding
from pipeline.history.keep.status import State, Status
from pipeline.nightly.after import close_night
from pipeline.nightly.cells.matrix import Cell
from pipeline.nightly.night import Night
from pipeline.nightly.show.cases import to_junit
from pipeline.nightly.show.summary import Summary, read_statuses, to_markdown, to_text

ENDED_BADLY = sorted(set(State) - {State.published, State.rejected, State.skipped})
SLOWER = Finding(cell="a", metric="speed", kind="regression", text="10 % slower", fails=True)
STEP = Finding(cell="a", metric="speed", kind="step", text="a step up", fails=False)


def status(state: State = State.published, **changes: Any) -> Status:
    base = {"cell": "a", "model": "m", "precision": "fp32", "device": "cpu", "command": "python x"}
    return Status(**{**base, "state": state, **changes})


def make(*states: State, **changes: Any) -> Summary:
    return Summary(
        night="n", directory=Path("nights/n"), statuses=tuple(map(status, states)), **changes
    )


@pytest.mark.parametrize(
    ("summary", "code"),
    [
        (make(State.published), 0),
        (make(State.published, findings=(STEP,)), 0),
        (make(State.published, findings=(SLOWER,)), 2),
        (make(State.published, State.rejected), 2),
        (make(State.published, State.skipped), 2),
        (make(State.published, problems=("history: disk full",)), 1),
        *((make(State.rejected, state), 1) for state in ENDED_BADLY),
    ],
)
def test_exit_code(summary: Summary, code: int) -> None:
    assert summary.exit_code == code


def test_junit_counts_and_takes_any_text() -> None:
    odd = status(State.crashed, message="\x1b[31m<&>\x00", stage="export")
    summary = Summary(
        night="n",
        directory=Path(),
        statuses=(status(), status(State.rejected), odd),
        findings=(SLOWER, STEP),
        problems=("no room",),
    )
    root = ET.fromstring(to_junit(summary))
    assert [root.get(key) for key in ("tests", "failures", "errors")] == ["6", "2", "2"]
    (error,) = (e for e in root.iter("error") if e.get("type") == "crashed")
    assert error.get("message") == "crashed in export: [31m<&>"
    assert error.text == "python x"


def test_junit_counts_a_cell_once() -> None:
    ended = [
        Finding(cell="a", metric="state", kind="crashed", text="c", fails=True, rule="state"),
        Finding(cell="a", metric="gates", kind="regression", text="g", fails=True, rule="gate"),
    ]
    for state, finding in zip((State.crashed, State.rejected), ended, strict=True):
        root = ET.fromstring(to_junit(make(state, findings=(finding,))))
        assert root.get("tests") == "1"
        assert {root.get("failures"), root.get("errors")} == {"0", "1"}


def test_a_stopped_night_s_cells_are_stopped(tmp_path: Path) -> None:
    night = night_of(tmp_path)
    (status_,) = read_statuses(night, {"a": "not run"}, stopped=True)
    assert (status_.state, status_.message) == (State.stopped, "not run")


def test_markdown_escapes_and_names_findings() -> None:
    text = to_markdown(make(State.error, findings=(SLOWER,), problems=("a|b",)))
    assert "- a speed, regression (fails the night): 10 % slower" in text
    assert "- error: a\\|b" in text
    assert "python x" in to_text(make(State.error))


def test_what_failed_is_not_said_twice() -> None:
    gone = Finding(cell="a", metric="state", kind="missing", text="not measured", fails=True)
    gate = replace(gone, kind="regression", rule="gate", text="cosine.mean")
    for render, finding in product((to_text, to_markdown), (gone, gate)):
        assert finding.text not in render(make(State.error, findings=(finding,)))
        assert finding.text in render(make(State.published, findings=(finding,)))


def night_of(tmp_path: Path) -> Night:
    cell = Cell(
        name="a",
        model="m",
        precision="fp32",
        device="cpu",
        arguments=("model=m",),
        target="artifacts/m/fp32",
        timeout_s=1,
        grace_s=1,
    )
    (tmp_path / "a").mkdir()
    return Night(id="20261121T020000Z", directory=tmp_path, cells=(cell,))


def test_cell_without_a_status_is_missing(tmp_path: Path) -> None:
    night = night_of(tmp_path)
    (missing,) = read_statuses(night, {"a": "the node died"})
    assert (missing.state, missing.message) == (State.missing, "the node died")
    assert missing.command == "python -m pipeline model=m"
    status(State.running, started="2026-11-21T02:00:00+00:00").write(night.of(night.cells[0]))
    (tmp_path / "a/outcome.json").write_text('{"schema": 1, "stage": "export", "gates": []}')
    (missing,) = read_statuses(night, {})
    assert (missing.state, missing.stage, missing.message) == (
        "missing",
        "export",
        "it has no status",
    )
    status(State.rejected).write(night.of(night.cells[0]))
    assert read_statuses(night, {})[0].state is State.rejected


def test_history_gets_the_night(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []

    def close(
        database: Path, night: str, statuses: Sequence[Status], directory: Path
    ) -> tuple[Finding, ...]:
        seen.extend([database, night, *statuses])
        (directory / "trend.html").write_text("page")
        return (SLOWER,)

    monkeypatch.setattr("pipeline.history.close.close_night", close)
    done = status(bundle="artifacts/m/fp32", previous="p")
    found = close_night(night_of(tmp_path), [done, status(State.missing)], tmp_path / "db")
    assert found == (SLOWER,)
    assert seen == [tmp_path / "db", "2026-11-21T02:00:00+00:00", done, status(State.missing)]
    assert (tmp_path / "history/trend.html").is_file()
