"""A matrix of real runs on tiny models, where one crashes, one hangs and one fails a gate."""

import json
import shutil
from pathlib import Path

import command_line
import pytest
import stand_in

_MISBEHAVE = """
import logging, os, signal, sys, time
asked = set(sys.orig_argv)
if "pipeline" in asked and {"model.name=b", "precision=int8"} <= asked:
    time.sleep(1000)
if "pipeline" in asked and {"model.name=b", "precision=fp32"} <= asked:
    info = logging.Logger.info
    def crash(self, message, *arguments):
        info(self, message, *arguments)
        if message == "%s …" and arguments == ("export",):
            os.kill(os.getpid(), signal.SIGSEGV)
    logging.Logger.info = crash
"""


@pytest.mark.slow
def test_three_fail_and_three_publish(tmp_path: Path, tiny_dir: Path) -> None:
    for name in "ab":
        shutil.copytree(tiny_dir, tmp_path / name)
    (tmp_path / "sitecustomize.py").write_text(_MISBEHAVE)
    quick = [*command_line.SMALL, *command_line.ANY_INT8, "engine=onnxruntime", "optimize=false"]
    night = {
        "defaults": ["nightly", "_self_"],
        "models": ["a", "b"],
        "custom_models": {name: [f"model.directory={tmp_path / name}"] for name in "ab"},
        "overrides": {"*": quick, "a-fp16-cpu": ["validate.gates.cosine_mean.fp16=2"]},
        "timeouts": {"b-int8-cpu": 10},
        "hardware": {"cpu": {"slots": ["", ""]}},
        "output": "nights",
    }
    (tmp_path / "conf").mkdir()
    (tmp_path / "conf/mine.yaml").write_text(json.dumps(night))
    env = command_line.environment()
    env |= {"PYTHONPATH": f"{env['PYTHONPATH']}:{tmp_path}", "OMP_NUM_THREADS": "1"}
    where = ["--config-dir", str(tmp_path / "conf"), "--config-name", "mine"]
    command = [*command_line.COMMAND[:2], "pipeline.nightly", *where]
    done = stand_in.run_nightly(tmp_path, env, command)
    assert done.returncode == 1, done.stderr
    assert "3 of 6 cells published, 1 rejected, 1 crashed, 1 timeout" in done.stdout, done.stdout
    for cell in ("a/fp32", "a/int8", "b/fp16"):
        assert (tmp_path / "artifacts" / cell / "manifest.json").is_file()
    told = done.stdout.splitlines()
    for name, how in {
        "a-fp16-cpu": "rejected in validate: gate failed: onnxruntime: cosine.mean",
        "b-fp32-cpu": "crashed in export: ended by SIGSEGV",
        "b-int8-cpu": "timeout before the first stage: no end after 10 s",
    }.items():
        (line,) = (i for i, text in enumerate(told) if text.startswith(f"  {name} "))
        assert how in told[line + 1]
        _, model, precision, _ = ("", *name.split("-"))
        assert (
            f"-m pipeline model=custom model.name={model} precision={precision} " in told[line + 2]
        )
    (crash,) = tmp_path.glob("nights/*/b-fp32-cpu/log.txt")
    assert "Fatal Python error: Segmentation fault" in crash.read_text()
