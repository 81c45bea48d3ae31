"""python -m pipeline -m: every job runs, the worst exit code, one line for each job at the end."""

import sys
from pathlib import Path

import pytest

from pipeline.config import PipelineConfig
from pipeline.errors import ExportError
from pipeline.flow.compose import run_command


@pytest.mark.parametrize(
    ("codes", "worst"),
    [
        ({"fp32": 0, "fp16": 0, "int8": 0}, 0),
        ({"fp32": 2, "fp16": 0, "int8": 0}, 2),
        ({"fp32": 2, "fp16": 1, "int8": 0}, 1),
        ({"fp32": 1, "fp16": 0, "int8": 2}, 1),
    ],
)
def test_sweep(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    codes: dict[str, int],
    worst: int,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("HYDRA_FULL_ERROR", raising=False)
    arguments = ["-m", "model=minilm,mpnet", "precision=fp32,fp16,int8"]
    monkeypatch.setattr(sys, "argv", ["pipeline", *arguments])
    ran = []

    def do(config: PipelineConfig) -> int:
        ran.append((config.model.name, config.precision.name))
        code = codes[config.precision.name]
        if code == 1:
            raise ExportError("the graph is odd; set exporter=optimum")
        return code

    assert run_command(do) == worst
    assert ran == [(m, p) for m in ("minilm", "mpnet") for p in ("fp32", "fp16", "int8")]
    words = ("published", "error: the graph is odd; set exporter=optimum", "gate failed")
    out = capsys.readouterr().out.splitlines()
    assert out[-7:] == [
        "6 jobs ended",
        *(f"  model={m} precision={p}: {words[codes[p]]}" for m, p in ran),
    ]


def test_choice_that_does_not_exist_starts_no_job(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("HYDRA_FULL_ERROR", raising=False)
    monkeypatch.setattr(sys, "argv", ["pipeline", "-m", "precision=fp32,int3"])
    assert run_command(lambda _: pytest.fail("a job ran")) == 1
    assert "precision=int3: no such choice" in capsys.readouterr().err
