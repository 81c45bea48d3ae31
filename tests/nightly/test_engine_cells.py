"""One cell publishes a bundle, one for each GPU type builds an engine of it and checks that."""

import json
import shlex
import shutil
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import command_line
import pytest
import stand_in

from pipeline.bundle.engines import open_parent, read_engines
from pipeline.bundle.verification import verify_bundle
from pipeline.engines.gpu import is_installed
from pipeline.files import read_json
from pipeline.history.keep.database import open_database, read_entries

ADA = {"builds_from": "cpu", "target": "sm_89"}
BLACKWELL = {"builds_from": "cpu", "target": "sm_120"}


def settings(cwd: Path, hardware: dict[str, Any], **more: Any) -> list[str]:
    """Write a night's own config and return the arguments that name it."""
    mine = {
        "defaults": ["nightly", "_self_"],
        "devices": ["cpu", *hardware],
        "hardware": hardware,
        **more,
    }
    (cwd / "conf").mkdir()
    (cwd / "conf/mine.yaml").write_text(json.dumps(mine))
    return ["--config-dir", str(cwd / "conf"), "--config-name", "mine"]


def only_night(cwd: Path) -> Path:
    (night,) = (cwd / "nights").glob("*Z")
    return night


def cells_of(night: Path) -> dict[str, dict[str, Any]]:
    summary = json.loads((night / "summary.json").read_text())
    return {cell["cell"]: cell for cell in summary["cells"]}


@pytest.mark.slow
def test_what_one_publishes_each_builds(tmp_path: Path) -> None:
    """Of two models one is not published: its engines are skipped; a check fails on one GPU."""
    env = stand_in.environment(tmp_path)
    fails = BLACKWELL | {"overrides": ["--runtime=reject"]}
    mine = settings(tmp_path, {"ada": ADA, "blackwell": fails})
    command = stand_in.nightly(tmp_path, {"b-fp32-cpu": "reject"}, *mine)
    done = stand_in.run_nightly(tmp_path, env, command)
    assert done.returncode == 2, done.stderr
    assert "2 of 6 cells published, 2 rejected, 2 skipped" in done.stdout
    night = only_night(tmp_path)
    cells = cells_of(night)
    assert {name: (cell["state"], cell["target"]) for name, cell in cells.items()} == {
        "a-fp32-cpu": ("published", None),
        "b-fp32-cpu": ("rejected", None),
        "a-fp32-ada": ("published", "sm_89"),
        "b-fp32-ada": ("skipped", "sm_89"),
        "a-fp32-blackwell": ("rejected", "sm_120"),
        "b-fp32-blackwell": ("skipped", "sm_120"),
    }
    engine = "artifacts/a/fp32/engines/tensorrt-11.4.0-sm_89"
    assert cells["a-fp32-ada"]["bundle"] == str(tmp_path / engine)
    why = "b-fp32-cpu, which publishes its bundle: rejected in validate: gate failed: cosine.mean"
    assert cells["b-fp32-ada"]["message"].startswith(why)
    assert not (night / "b-fp32-ada/log.txt").exists()
    assert cells["a-fp32-blackwell"]["message"] == "gate failed: cosine.mean 0.5 < 0.9"

    assert "| a-fp32-ada | sm_89 | published |" in (night / "summary.md").read_text()
    suite = ET.parse(night / "junit.xml").getroot()
    skipped = [
        case.get("name") for case in suite.iter("testcase") if case.find("skipped") is not None
    ]
    assert skipped == ["b-fp32-ada", "b-fp32-blackwell"]
    with open_database(tmp_path / "nights/history.sqlite") as connection:
        entries = {entry.cell: entry for entry in read_entries(connection)}
    assert entries["a-fp32-ada"].target == "sm_89"
    cosine = entries["a-fp32-ada"].figure("tensorrt", "cosine_mean")
    assert cosine is not None
    assert cosine.value == 0.9995
    assert [f.fails for f in entries["b-fp32-ada"].findings] == [False]
    assert entries["a-fp32-blackwell"].failed_gates == ("cosine.mean 0.5 < 0.9",)
    trend = (night / "history/trend.md").read_text()
    assert "ada (sm_89)" in trend
    assert "0.9995" in trend
    assert "blackwell (sm_120)" in (night / "history/trend.html").read_text()


@pytest.mark.slow
def test_skipped_is_tried_again_once_its_bundle_is_there(tmp_path: Path) -> None:
    env = stand_in.environment(tmp_path)
    mine = settings(tmp_path, {"ada": ADA}, exclude=["a-*-ada"])
    command = stand_in.nightly(tmp_path, {"b-fp32-cpu": "error"}, *mine)
    assert stand_in.run_nightly(tmp_path, env, command).returncode == 1
    night = only_night(tmp_path)
    assert cells_of(night)["b-fp32-ada"]["state"] == "skipped"
    published = read_json(night / "a-fp32-cpu/status.json") or {}
    (night / "b-fp32-cpu/status.json").write_text(json.dumps(published | {"cell": "b-fp32-cpu"}))
    shutil.copytree(tmp_path / "artifacts/a/fp32", tmp_path / "artifacts/b/fp32")
    _, *again = shlex.split((read_json(night / "plan.json") or {})["command"])
    done = stand_in.run_nightly(tmp_path, env, [sys.executable, *again])
    assert done.returncode == 0, done.stderr
    assert only_night(tmp_path) == night
    assert cells_of(night)["b-fp32-ada"]["state"] == "published"


@pytest.mark.slow
@pytest.mark.skipif(not is_installed("tensorrt_rtx"), reason="tensorrt_rtx is not installed")
def test_real_engines_of_two_targets_in_one_bundle(tmp_path: Path, tiny_bundle: Path) -> None:
    """Built from the bundle that is there, where nothing is published tonight."""
    bundle = shutil.copytree(tiny_bundle, tmp_path / "artifacts/a/int8")
    shutil.rmtree(bundle / "engines")
    only = {"overrides": ["--runtime=tensorrt_rtx", "--sequence-buckets=48"]}
    where = settings(
        tmp_path,
        {"ada": ADA | only, "blackwell": BLACKWELL | only},
        devices=["ada", "blackwell"],
        models=["a"],
        precisions=["int8"],
        custom_models={"a": []},
        output="nights",
    )
    env = command_line.environment() | {"OMP_NUM_THREADS": "1"}
    done = stand_in.run_nightly(
        tmp_path, env, [*command_line.COMMAND[:2], "pipeline.nightly", *where]
    )
    assert done.returncode == 0, done.stdout + done.stderr
    engines = list(read_engines(open_parent(bundle)))
    assert [(engine.runtime, engine.target) for engine in engines] == [
        ("tensorrt_rtx", "sm_120"),
        ("tensorrt_rtx", "sm_89"),
    ]
    plans = {(engine.root / "model.plan").read_bytes() for engine in engines}
    assert len(plans) == 2
    assert verify_bundle(bundle).problems == ()
    cells = cells_of(only_night(tmp_path))
    assert cells["a-int8-ada"]["target"] == "sm_89"
    assert cells["a-int8-ada"]["message"].startswith("not checked: ")
    report = read_json(only_night(tmp_path) / "a-int8-ada/report.json") or {}
    (artifact,) = report["artifacts"]
    assert (artifact["name"], artifact["executed"]) == ("tensorrt_rtx", False)
    assert artifact["bytes"] == (bundle / artifact["file"]).stat().st_size
