"""records, journal, database: what is kept of a night, and that nothing of it is lost."""

import json
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from example_report import int8
from some_nights import kept, night, report

from pipeline.errors import HistoryError
from pipeline.history.keep import database as database_module
from pipeline.history.keep.database import open_database, read_entries, write_entries
from pipeline.history.keep.extract import manifest_sha256
from pipeline.history.keep.journal import from_line, keep_night, read_lines, to_line, write_lines
from pipeline.history.keep.records import Entry, Figure, Finding, utc
from pipeline.history.keep.status import State

FINDING = Finding(
    cell="minilm-int8-cpu",
    artifact="onnxruntime",
    metric="speedup",
    kind="regression",
    text="slower",
    fails=True,
    rule="step",
)


@pytest.fixture
def entry() -> Entry:
    """A published cell with a finding."""
    return replace(kept(3, report({"onnxruntime": 3.0})), findings=(FINDING,))


def save(path: Path, entries: Sequence[Entry]) -> None:
    with open_database(path, create=True) as connection:
        write_entries(connection, entries)


def stored(path: Path) -> list[Entry]:
    with open_database(path) as connection:
        return read_entries(connection)


def test_every_kind_of_figure_is_kept(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text(json.dumps({"config": {"b": 1, "a": 2}}))
    seen = kept(0, int8(), bundle=tmp_path)
    (ran, not_run) = seen.artifacts
    assert ran.figures["speedup"] == Figure(value=2.17, low=0.93 * 2.17, high=1.08 * 2.17)
    assert ran.figures["text_speedup"] == Figure(
        value=0.96 * 2.17, low=0.9 * 2.17, high=1.02 * 2.17
    )
    assert ran.figures["cosine_mean"] is not None
    assert ran.figures["cosine_mean"].value == 0.9995347
    assert ran.figures["latency_p50_ms"] == Figure(value=1.83)
    assert ran.figures["latency_speedup"] == Figure(value=6.12 / 1.83)
    assert ran.figures["bytes"] == Figure(value=58_841_645)
    assert ran.figures["load_s"] == Figure(value=0.412)
    assert ran.figures["gpu_memory_bytes"] is None
    score = int8()["artifacts"][0]["tasks"]["sample"]
    assert ran.figures["task.sample.recall_at_10"] == Figure(value=score["artifact"])
    low, high = score["ci95"]
    assert ran.figures["task.sample.recall_at_10.delta"] == Figure(
        value=score["delta"], low=low, high=high
    )
    assert (not_run.name, not_run.reason) == ("tensorrt_rtx", "no CUDA device on this machine")
    assert not_run.figures == {"bytes": Figure(value=51_800_000)}
    assert seen.stages == (("resolve", 2.6), ("quantize", 24.7), ("build tensorrt_rtx", 3.1))
    assert seen.versions == {"torch": "2.13.0+cpu", "onnxruntime-gpu": "1.31.1"}
    assert seen.machine == "AMD EPYC, 2 threads"
    assert seen.bundle_sha256 == manifest_sha256(tmp_path)
    (tmp_path / "manifest.json").write_text(json.dumps({"config": {"a": 2, "b": 1}}))
    assert kept(0, int8(), bundle=tmp_path).config_sha256 == seen.config_sha256
    assert seen.config_sha256 is not None


def test_the_machine_is_the_gpu_where_there_is_one() -> None:
    data = int8()
    data["environment"]["gpu"] = {"name": "NVIDIA L4", "driver": "570.1"}
    seen = kept(0, data)
    assert seen.machine == "NVIDIA L4, AMD EPYC, 2 threads"
    assert seen.versions is not None
    assert seen.versions["driver"] == "570.1"


def test_what_was_not_measured_is_null(tmp_path: Path) -> None:
    data = int8()
    del data["reference"]["latency_ms"]
    data["artifacts"][0]["throughput"]["speedup"]["median"] = float("nan")
    seen = kept(0, data)
    assert seen.artifacts[0].figures["speedup"] is None
    assert seen.artifacts[0].figures["latency_speedup"] is None
    save(tmp_path / "h.sqlite", [seen])
    with closing(sqlite3.connect(tmp_path / "h.sqlite")) as connection, connection:
        rows = connection.execute("SELECT value FROM figures WHERE metric = 'speedup'").fetchall()
    assert rows == [(None,)]
    assert json.loads(to_line(seen))["artifacts"][0]["figures"]["speedup"] is None


@pytest.mark.parametrize("data", [None, {"artifacts": [{}]}, {"artifacts": 3}, {"stages": [1]}])
def test_a_report_that_is_none_leaves_the_cell_without_figures(data: Any) -> None:
    seen = kept(0, data, state=State.crashed, message="SIGSEGV")
    assert (seen.artifacts, seen.state, seen.message) == ((), "crashed", "SIGSEGV")


def test_bad_records_are_refused() -> None:
    with pytest.raises(HistoryError, match="state 'running', expected one of published, rejected"):
        kept(0, None, state=State.running)
    with pytest.raises(HistoryError, match="night 'yesterday': expected a UTC ISO timestamp"):
        utc("yesterday")


@pytest.mark.parametrize(
    "written", ["2026-11-21T04:00:00+02:00", "2026-11-21T02:00:00.7", "20261121T020000Z"]
)
def test_nights_have_one_form(written: str) -> None:
    assert utc(written) == "2026-11-21T02:00:00Z"


def test_database_and_lines_give_back_what_they_took(entry: Entry, tmp_path: Path) -> None:
    bare = kept(4, None, state=State.missing, exit_code=None)
    save(tmp_path / "h.sqlite", [entry, bare])
    assert stored(tmp_path / "h.sqlite") == [entry, bare]
    write_lines(tmp_path / "h.jsonl", [entry, bare])
    assert list(read_lines(tmp_path / "h.jsonl")) == [entry, bare]
    assert from_line(to_line(entry)) == entry


def test_a_night_written_again_takes_its_own_place(entry: Entry, tmp_path: Path) -> None:
    path = tmp_path / "h.sqlite"
    save(path, [entry])
    again = replace(entry, findings=(), artifacts=entry.artifacts[:1], seconds=1.0)
    save(path, [again])
    assert stored(path) == [again]
    with closing(sqlite3.connect(path)) as connection, connection:
        (count,) = connection.execute("SELECT count(*) FROM artifacts").fetchone()
    assert count == 1


def test_nights_before_one_are_read(entry: Entry, tmp_path: Path) -> None:
    path = tmp_path / "h.sqlite"
    entries = [replace(entry, night=night(n)) for n in range(4)]
    save(path, entries)
    with open_database(path) as connection:
        assert read_entries(connection, before=night(2)) == entries[:2]


def test_half_a_transaction_leaves_nothing(entry: Entry, tmp_path: Path) -> None:
    path = tmp_path / "h.sqlite"
    save(path, [entry])
    unwritable = replace(entry, night=night(10), command=object())  # type: ignore[arg-type]
    with pytest.raises(HistoryError):
        save(path, [replace(entry, night=night(9)), unwritable])
    assert stored(path) == [entry]


def test_a_locked_database_is_one_line(
    entry: Entry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "h.sqlite"
    save(path, [entry])
    monkeypatch.setattr(database_module, "BUSY_S", 0.01)
    holder = sqlite3.connect(path, isolation_level=None)
    holder.execute("BEGIN EXCLUSIVE")
    with pytest.raises(HistoryError, match="locked; another process writes it") as caught:
        save(path, [entry])
    assert "\n" not in str(caught.value)
    holder.close()


def test_a_damaged_database_is_one_line(entry: Entry, tmp_path: Path) -> None:
    path = tmp_path / "h.sqlite"
    save(path, [entry])
    path.write_bytes(b"garbage " * 100)
    with pytest.raises(HistoryError, match="not a database; move it away and import the nights"):
        stored(path)


def test_another_schema_is_refused_and_kept(entry: Entry, tmp_path: Path) -> None:
    path = tmp_path / "h.sqlite"
    save(path, [entry])
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("PRAGMA user_version = 7")
    with pytest.raises(HistoryError, match="schema 7, expected 2"):
        save(path, [entry])
    with closing(sqlite3.connect(path)) as connection, connection:
        assert connection.execute("SELECT count(*) FROM cells").fetchone() == (1,)


def test_a_database_from_before_the_target_is_read_and_written(
    entry: Entry, tmp_path: Path
) -> None:
    path = tmp_path / "h.sqlite"
    save(path, [entry])
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("ALTER TABLE cells DROP COLUMN target")
        connection.execute("PRAGMA user_version = 1")
    assert stored(path) == [entry]
    later = replace(entry, night="2030-01-01T02:00:00Z", target="sm_89")
    save(path, [later])
    assert stored(path) == [entry, later]


def test_another_program_s_database_is_left_alone(entry: Entry, tmp_path: Path) -> None:
    path = tmp_path / "h.sqlite"
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("CREATE TABLE theirs (a)")
    with pytest.raises(HistoryError, match="schema 0, expected 2"):
        save(path, [entry])


def test_no_database_is_made_by_reading(tmp_path: Path) -> None:
    with pytest.raises(HistoryError, match="no database at"):
        stored(tmp_path / "h.sqlite")
    assert not (tmp_path / "h.sqlite").exists()


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("{", "not JSON"),
        ("[]", "schema 1"),
        ('{"schema": 2}', "schema 1"),
        ('{"schema": 1}', "not a record"),
    ],
)
def test_a_broken_line_names_itself(entry: Entry, tmp_path: Path, line: str, words: str) -> None:
    path = tmp_path / "h.jsonl"
    path.write_text(f"{to_line(entry)}\n{line}\n")
    with pytest.raises(HistoryError, match=f"h.jsonl line 2: .*{words}.*nothing was imported"):
        list(read_lines(path))


def test_a_truncated_line_names_itself(entry: Entry, tmp_path: Path) -> None:
    path = tmp_path / "h.jsonl"
    path.write_text(to_line(entry)[:-40])
    with pytest.raises(HistoryError, match="line 1"):
        list(read_lines(path))


def test_a_night_is_kept_in_the_other_place_where_one_cannot_be_written(
    entry: Entry, tmp_path: Path
) -> None:
    blocked = tmp_path / "h.nights"
    blocked.write_text("a file where a directory should be")
    kept = keep_night(tmp_path / "h.sqlite", entry.night, [entry], tmp_path / "out")
    assert kept == tmp_path / "out" / "20260826T020000Z.jsonl"
    assert list(read_lines(kept)) == [entry]
    (tmp_path / "both").write_text("")
    with pytest.raises(HistoryError, match="cannot be written"):
        keep_night(tmp_path / "h.sqlite", entry.night, [entry], tmp_path / "both")
