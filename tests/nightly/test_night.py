"""python -m pipeline.nightly: whatever ends a cell or the night, what became of it comes out."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import command_line
import pytest
import stand_in
from stand_in import is_gone, until

_KINDS = ("failure", "error")
THREE = ("fp32", "fp16", "int8")


def only_night(cwd: Path) -> Path:
    (night,) = (cwd / "nights").glob("*Z")
    return night


def summary(cwd: Path) -> dict[str, Any]:
    data: dict[str, Any] = json.loads((only_night(cwd) / "summary.json").read_text())
    return data


def states(cwd: Path) -> dict[str, str]:
    return {cell["cell"]: cell["state"] for cell in summary(cwd)["cells"]}


@pytest.fixture
def env(tmp_path: Path) -> dict[str, str]:
    return stand_in.environment(tmp_path)


def test_each_way_to_end_ends_only_its_cell(tmp_path: Path, env: dict[str, str]) -> None:
    do = {"a-int8-cpu": "hang", "b-fp32-cpu": "SIGSEGV", "b-fp16-cpu": "reject"}
    command = stand_in.nightly(
        tmp_path, do, "+timeouts={a-int8-cpu:3}", 'hardware.cpu.slots=["",""]', precisions=THREE
    )
    done = stand_in.run_nightly(tmp_path, env, command)
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr
    assert "3 of 6 cells published, 1 rejected, 1 crashed, 1 timeout" in done.stdout
    told = {
        "a-int8-cpu": ("timeout in export", "dataset.path=hang"),
        "b-fp32-cpu": ("crashed in export: ended by SIGSEGV", "dataset.path=SIGSEGV"),
        "b-fp16-cpu": ("rejected in validate: gate failed: cosine", "dataset.path=reject"),
    }
    for name, (how, setting) in told.items():
        after = done.stdout[done.stdout.index(f"  {name} ") :].splitlines()
        assert how in after[1]
        _, model, precision = ("", *name.split("-")[:2])
        assert after[2].strip() == (
            f"reproduce: CUDA_VISIBLE_DEVICES= python -m pipeline model=custom model.name={model} "
            f"precision={precision} {setting} artifacts_dir=artifacts"
        )
        assert Path(tmp_path, after[3].split("log: ")[1]).is_file()
        assert f"{name}: {how.split(' in ')[0]}" in done.stderr
    markdown = (only_night(tmp_path) / "summary.md").read_text()
    assert "| b-fp32-cpu |  | crashed | export |" in markdown
    assert markdown.count("```bash") == 3
    suite = ET.parse(only_night(tmp_path) / "junit.xml").getroot()
    cells = suite.findall(".//testcase[@classname='cpu']")  # the history's findings have others
    ended = [[case.get("name") for case in cells if case.find(k) is not None] for k in _KINDS]
    assert (len(cells), ended) == (6, [["b-fp16-cpu"], ["a-int8-cpu", "b-fp32-cpu"]])
    assert (tmp_path / "artifacts/a/fp32/report.json").is_file()
    assert not (tmp_path / "artifacts/b/fp16").exists()


@pytest.mark.parametrize(
    ("do", "code"), [({}, 0), ({"a-fp32-cpu": "reject"}, 2), ({"b-fp32-cpu": "error"}, 1)]
)
def test_exit_code(tmp_path: Path, env: dict[str, str], do: dict[str, str], code: int) -> None:
    done = stand_in.run_nightly(tmp_path, env, stand_in.nightly(tmp_path, do))
    assert done.returncode == code
    assert summary(tmp_path)["exit_code"] == code


def test_slots_are_devices_for_one_cell_at_a_time(tmp_path: Path, env: dict[str, str]) -> None:
    slots = 'hardware.cpu.slots=["GPU-1","GPU-2"]'
    do = {"*": "wait"}
    night = subprocess.Popen(
        stand_in.nightly(tmp_path, do, slots, precisions=THREE), cwd=tmp_path, env=env
    )
    started = tmp_path / "started"
    until(lambda: started.exists() and len(started.read_text().split()) == 2)
    time.sleep(0.5)
    assert len(started.read_text().split()) == 2  # the other four wait for a slot
    (tmp_path / "go").touch()
    assert night.wait(60) == 0
    used = [
        json.loads(path.read_text())["devices"]
        for path in tmp_path.glob("artifacts/*/*/report.json")
    ]
    assert len(used) == 6
    assert set(used) == {"GPU-1", "GPU-2"}


def test_killed_night_is_resumed(tmp_path: Path, env: dict[str, str]) -> None:
    command = stand_in.nightly(tmp_path, {"b-*": "wait"}, precisions=("fp32", "int8"))
    night = subprocess.Popen(command, cwd=tmp_path, env=env, stderr=subprocess.DEVNULL)
    started = tmp_path / "started"
    until(started.exists)
    night.kill()
    night.wait()
    directory = only_night(tmp_path)
    status = directory / "b-fp32-cpu/status.json"
    until(lambda: '"stopped"' in status.read_text())  # its cell does not outlive it
    (tmp_path / "go").touch()
    done = stand_in.run_nightly(tmp_path, env, [*command, f"night={directory.name}"])
    assert done.returncode == 0, done.stderr
    assert "2 of 4 cells are left" in done.stderr
    assert set(states(tmp_path).values()) == {"published"}
    assert started.read_text() == "fp32 fp32 int8 "  # b-fp32 twice, what was done not again


def test_resumed_with_other_cells(tmp_path: Path, env: dict[str, str]) -> None:
    stand_in.run_nightly(tmp_path, env, stand_in.nightly(tmp_path, {}))
    night = only_night(tmp_path).name
    other = stand_in.nightly(tmp_path, {}, f"night={night}", precisions=("int8",))
    done = stand_in.run_nightly(tmp_path, env, other)
    assert done.returncode == 1
    assert done.stderr.startswith(f"error: night {night} was started with other cells; go on with")
    assert "'models=[a,b]' 'precisions=[fp32]'" in done.stderr
    assert set(states(tmp_path)) == {"a-fp32-cpu", "b-fp32-cpu"}


def test_no_name_of_a_night(tmp_path: Path, env: dict[str, str]) -> None:
    done = stand_in.run_nightly(tmp_path, env, stand_in.nightly(tmp_path, {}, "night=../up"))
    assert done.returncode == 1
    assert done.stderr.startswith("error: night=../up: expected a night's directory")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_stopped_night_says_what_was_done(
    tmp_path: Path, env: dict[str, str], number: signal.Signals
) -> None:
    do = {"a-int8-cpu": "hang"}
    command = stand_in.nightly(tmp_path, do, precisions=("fp32", "int8"))
    night = subprocess.Popen(command, cwd=tmp_path, env=env, stdout=subprocess.PIPE, text=True)
    until((tmp_path / "pids").exists)
    night.send_signal(number)
    out, _ = night.communicate(timeout=60)
    assert night.returncode == 128 + number
    assert "1 of 4 cells published, 3 stopped" in out
    assert f"not run: the night was stopped by {number.name}" in out
    assert "stopped in export: stopped before it ended" in out
    assert list(states(tmp_path).values()) == ["published", "stopped", "stopped", "stopped"]
    page = (only_night(tmp_path) / "history/trend.html").read_text("utf-8")
    assert "1 of 4 cells published" in page
    assert "3 stopped" in page
    for pid in (tmp_path / "pids").read_text().split():
        assert is_gone(int(pid))


def test_killed_runner_is_a_missing_cell(tmp_path: Path, env: dict[str, str]) -> None:
    command = stand_in.nightly(tmp_path, {"a-fp32-cpu": "hang"})
    night = subprocess.Popen(command, cwd=tmp_path, env=env, stdout=subprocess.PIPE, text=True)
    until((tmp_path / "pids").exists)
    hung, child = map(int, (tmp_path / "pids").read_text().split())
    runner = Path(f"/proc/{hung}/stat").read_text().rpartition(")")[2].split()[1]
    os.kill(int(runner), signal.SIGKILL)
    out, _ = night.communicate(timeout=60)
    os.kill(child, signal.SIGKILL)
    assert night.returncode == 1
    assert "its process ended by signal SIGKILL without a status" in out
    assert states(tmp_path) == {"a-fp32-cpu": "missing", "b-fp32-cpu": "published"}


def test_second_nightly_stops(tmp_path: Path, env: dict[str, str]) -> None:
    command = stand_in.nightly(tmp_path, {"*": "wait"})
    first = subprocess.Popen(command, cwd=tmp_path, env=env, stderr=subprocess.DEVNULL)
    until((tmp_path / "started").exists)
    second = stand_in.run_nightly(tmp_path, env, command)
    (tmp_path / "go").touch()
    assert second.returncode == 1
    assert second.stdout == ""
    assert second.stderr.count("\n") == 1
    assert f"another nightly works in {tmp_path}/nights" in second.stderr
    assert first.wait(60) == 0


@pytest.mark.parametrize("place", ["file/nights", "/proc/nights"])
def test_unwritable_output(tmp_path: Path, env: dict[str, str], place: str) -> None:
    (tmp_path / "file").write_text("not a directory")
    done = stand_in.run_nightly(tmp_path, env, stand_in.nightly(tmp_path, {}, f"output={place}"))
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("error: cannot write ")
    assert "set output to a directory that is writable" in done.stderr
    assert not (tmp_path / "artifacts").exists()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(place)]
    if shutil.which("mount") is None or subprocess.run(mount, check=False).returncode != 0:
        pytest.skip("no tmpfs may be mounted here")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


def fill(path: Path) -> None:
    with contextlib.suppress(OSError), path.open("wb", buffering=0) as rest:
        while True:
            rest.write(b"x" * 4096)


def test_full_disk(tmp_path: Path, env: dict[str, str], small_disk: Path) -> None:
    command = stand_in.nightly(tmp_path, {"*": "wait"}, f"output={small_disk}/nights")
    night = subprocess.Popen(
        command, cwd=tmp_path, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    until((tmp_path / "started").exists)
    fill(small_disk / "rest")
    (tmp_path / "go").touch()
    out, err = night.communicate(timeout=60)
    assert night.returncode == 1
    assert "Traceback" not in err
    assert "0 of 2 cells published, 2 missing" in out
    assert "No space left on device" in out
    assert "error: cannot write the summary: No space left on device" in out
    (small_disk / "rest").unlink()
    (directory,) = (small_disk / "nights").glob("*Z")
    done = stand_in.run_nightly(tmp_path, env, [*command, f"night={directory.name}"])
    assert done.returncode == 0, done.stderr


def test_help(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "pipeline.nightly", "--help"]
    done = stand_in.run_nightly(tmp_path, command_line.environment(), command)
    assert done.returncode == 0
    assert done.stderr == ""
    assert "python -m pipeline.nightly models=[minilm,mpnet]" in done.stdout
    assert "Exit codes: 0 every cell published, 2 nothing worse than a failed gate" in done.stdout
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("argument", "words"),
    [
        ("modls=[minilm]", "modls: no such key; did you mean models?"),
        ("timeouts={minilm-*: 5}", "timeouts: new keys are added with a plus: +timeouts={KEY"),
    ],
)
def test_unknown_key(tmp_path: Path, argument: str, words: str) -> None:
    command = [sys.executable, "-m", "pipeline.nightly", argument]
    done = stand_in.run_nightly(tmp_path, command_line.environment(), command)
    assert done.returncode == 1
    assert done.stderr.startswith(f"error: {words}")
