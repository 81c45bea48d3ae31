"""outcome.json: what a run tells its parent, in whatever way it ends."""

import os
import subprocess
import sys
from pathlib import Path

import command_line
import pytest

from pipeline.config import PipelineConfig
from pipeline.flow.compose import run_composed
from pipeline.flow.outcome_file import VARIABLE, RunOutcome, note_end, note_stage, read_outcome


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file that this process tells its outcome in."""
    monkeypatch.setenv(VARIABLE, str(tmp_path / "outcome.json"))
    return tmp_path / "outcome.json"


def test_the_last_stage_stays_when_the_run_ends(path: Path) -> None:
    note_stage("export")
    assert read_outcome(path) == RunOutcome(stage="export")
    note_stage("validate")
    note_end(2, gates=["cosine.mean 0.5 < 0.9"])
    assert read_outcome(path) == RunOutcome(
        exit=2, stage="validate", gates=("cosine.mean 0.5 < 0.9",)
    )
    note_end(0, bundle=Path("artifacts/a/fp32"))
    assert read_outcome(path).bundle == "artifacts/a/fp32"


def test_nothing_is_written_where_nobody_asks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    monkeypatch.chdir(tmp_path)
    note_stage("export")
    note_end(0)
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_costs_the_run_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv(VARIABLE, str(tmp_path / "nowhere" / "outcome.json"))
    note_stage("export")
    assert "cannot write" in caplog.text


@pytest.mark.parametrize(
    "text", ["", "[]", '{"schema": 2}', '{"schema": 1}', '{"schema": 1, "gates": [], "odd": 1}']
)
def test_what_is_no_outcome_says_nothing(tmp_path: Path, text: str) -> None:
    (tmp_path / "outcome.json").write_text(text)
    assert read_outcome(tmp_path / "outcome.json") == RunOutcome()


@pytest.mark.slow
def test_an_error_of_the_job_is_told(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: PipelineConfig) -> int:
        note_stage("export")
        raise MemoryError

    monkeypatch.setattr(sys, "argv", ["pipeline"])
    monkeypatch.setenv("HYDRA_FULL_ERROR", "0")
    from pipeline.config import register_schema

    register_schema()
    assert run_composed("config", PipelineConfig, fail) == 1
    told = read_outcome(path)
    assert (told.exit, told.stage) == (1, "export")
    assert "out of memory" in str(told.message)


@pytest.mark.slow
def test_the_command_itself_tells_of_an_unknown_model(tmp_path: Path) -> None:
    path = tmp_path / "outcome.json"
    done = subprocess.run(
        [sys.executable, "-m", "pipeline", "model=nonsense"],
        cwd=tmp_path,
        env=os.environ | command_line.environment() | {VARIABLE: str(path)},
        capture_output=True,
        text=True,
        check=False,
    )
    told = read_outcome(path)
    assert done.returncode == told.exit == 1
    assert told.stage is None
    assert done.stderr == f"error: {told.message}\n"
