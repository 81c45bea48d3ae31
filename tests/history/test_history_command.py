"""python -m pipeline.history: what it prints, its exit codes, and that errors are one line."""

import re
from dataclasses import replace
from pathlib import Path

import pytest
from some_nights import kept, night, report

from pipeline.history.__main__ import main
from pipeline.history.keep.anchors import find_anchor, keep_anchor
from pipeline.history.keep.database import open_database, read_entries, write_entries
from pipeline.history.keep.records import Entry, Finding


def entry(number: int, *, slower: bool = False) -> Entry:
    own = kept(number, report({"onnxruntime": 3.0}))
    finding = Finding(
        cell=own.cell,
        artifact="onnxruntime",
        metric="speedup",
        kind="regression",
        text="slower",
        fails=True,
        rule="step",
    )
    return replace(own, findings=(finding,) if slower else ())


@pytest.fixture
def database(tmp_path: Path) -> Path:
    """Three nights, the last two slower."""
    path = tmp_path / "history.sqlite"
    with open_database(path, create=True) as connection:
        write_entries(connection, [entry(0), entry(1, slower=True), entry(2, slower=True)])
    return path


def stored(path: Path) -> list[Entry]:
    with open_database(path) as connection:
        return read_entries(connection)


def test_show(database: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--database", str(database), "show"]) == 0
    assert capsys.readouterr().out.startswith("## Night of 2026-08-25: 1 published")


def test_render(database: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--database", str(database), "render", str(tmp_path / "out")]) == 0
    assert capsys.readouterr().out.strip() == str(tmp_path / "out" / "trend.html")
    names = ["trend.html", "trend.junit.xml", "trend.md"]
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == names


def test_export_and_import(
    database: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = tmp_path / "all.jsonl"
    assert main(["--database", str(database), "export", str(lines)]) == 0
    assert main(["--database", str(database), "export"]) == 0
    assert capsys.readouterr().out.endswith(lines.read_text("utf-8"))
    other = tmp_path / "other.sqlite"
    for _ in range(2):
        assert main(["--database", str(other), "import", str(lines)]) == 0
    assert stored(other) == stored(database)


def test_an_import_with_a_broken_line_changes_nothing(
    database: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = tmp_path / "all.jsonl"
    main(["--database", str(database), "export", str(lines)])
    lines.write_text(lines.read_text("utf-8").replace('"schema": 1', '"schema": 7', 1))
    other = tmp_path / "other.sqlite"
    capsys.readouterr()
    assert main(["--database", str(other), "import", str(lines)]) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "all.jsonl line 1" in error
    assert not other.exists()


def test_accept_ends_a_regression_and_drops_the_anchor(
    database: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cell = "minilm-int8-cpu"
    bundle = tmp_path / "bundle"
    bundle.mkdir()
    (bundle / "manifest.json").write_text("{}")
    keep_anchor(database, cell, night(0), bundle)
    assert main(["--database", str(database), "accept", cell]) == 0
    assert capsys.readouterr().out == f"{cell}: its level begins with {night(1)}\n"
    assert find_anchor(database, cell) is None
    accepted = {f.accepted for e in stored(database) for f in e.findings}
    assert len(accepted) == 1
    assert None not in accepted
    assert main(["--database", str(database), "accept", cell]) == 1
    assert "no regression to accept" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["accept", "nothing"], "cell nothing: not in .*; it has minilm-int8-cpu"),
        (["import", "missing.jsonl"], "cannot read missing.jsonl"),
        (["export", "no/such/directory/file"], "cannot write no/such/directory/file"),
        (["export-mlflow"], "--tracking-uri"),
        (["frobnicate"], "invalid choice"),
    ],
)
def test_bad_use_is_an_error_that_is_no_failed_gate(
    database: Path, arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--database", str(database), *arguments]) == 1
    said = capsys.readouterr()
    assert said.out == ""
    assert re.search(words, said.err)


def test_without_a_database_nothing_is_made(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--database", str(tmp_path / "none.sqlite"), "show"]) == 1
    assert "no database at" in capsys.readouterr().err
    assert not (tmp_path / "none.sqlite").exists()


def test_an_empty_database_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with open_database(tmp_path / "empty.sqlite", create=True):
        pass
    assert main(["--database", str(tmp_path / "empty.sqlite"), "show"]) == 1
    assert "no night in it" in capsys.readouterr().err
