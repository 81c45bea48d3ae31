"""One cell: what its command did becomes its state, and nothing of it stays behind."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import stand_in
from stand_in import is_gone, until

from pipeline.files import read_json
from pipeline.history.keep.status import State, Status
from pipeline.nightly.cells.cell import main, run_cell
from pipeline.nightly.stop import Stop


@pytest.fixture(autouse=True)
def _stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in stand_in.environment(tmp_path).items():
        monkeypatch.setenv(name, value)


@pytest.mark.many
@pytest.mark.parametrize(
    ("do", "state", "exit_code", "signal_name", "stage", "message"),
    [
        ("publish", "published", 0, None, None, None),
        ("reject", "rejected", 2, None, "validate", "gate failed: cosine.mean 0.5"),
        ("error", "error", 1, None, "export", "the graph is odd; set exporter=optimum"),
        ("SIGSEGV", "crashed", None, "SIGSEGV", "export", "ended by SIGSEGV"),
        ("SIGKILL", "crashed", None, "SIGKILL", "export", "memory runs out"),
        ("137", "crashed", 137, "SIGKILL", "export", "memory runs out"),
        ("nothing", "error", 0, None, "export", "nothing was published"),
    ],
)
def test_state(
    tmp_path: Path,
    do: str,
    state: str,
    exit_code: int | None,
    signal_name: str | None,
    stage: str | None,
    message: str | None,
) -> None:
    directory = stand_in.make_cell(tmp_path, do)
    assert main([str(directory)]) == {"published": 0, "rejected": 2}.get(state, 1)
    status = Status.read(directory)
    assert status is not None
    seen = (status.state, status.exit_code, status.signal, status.stage)
    assert seen == (state, exit_code, signal_name, stage)
    assert (message or "") in (status.message or "")
    assert (status.message is None) is (message is None)
    assert status.bundle == (str(tmp_path / "artifacts/a/fp32") if do == "publish" else None)
    kept = {"publish": ("name", "a"), "reject": ("passed", False)}
    assert set(status.reports) == ({"report.json"} if do in kept else set())
    for path in status.reports.values():
        assert kept[do] in (read_json(Path(path)) or {}).items()
    assert status.started is not None
    assert status.ended is not None
    assert status.started <= status.ended
    assert "python -m pipeline model=custom model.name=a" in status.command


@pytest.mark.slow
def test_timeout_ends_the_whole_group(tmp_path: Path) -> None:
    directory = stand_in.make_cell(tmp_path, "hang", timeout_s=3)
    with Stop() as stopping:
        status = run_cell(directory, stopping)
    assert (status.state, status.signal) == (State.timeout, "SIGKILL")
    assert status.stage == "export"
    assert "no end after 3 s" in str(status.message)
    pids = [int(pid) for pid in (tmp_path / "pids").read_text().split()]
    assert all(is_gone(pid) for pid in pids)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_its_command_does_not_outlive_it(tmp_path: Path, number: signal.Signals) -> None:
    directory = stand_in.make_cell(tmp_path, "hang")
    runner = subprocess.Popen([sys.executable, "-m", "pipeline.nightly.cells.cell", str(directory)])
    until((tmp_path / "pids").exists)
    runner.send_signal(number)
    assert runner.wait(60) in {1, -number}
    pids = [int(pid) for pid in (tmp_path / "pids").read_text().split()]
    until(lambda: is_gone(pids[0]))
    status = Status.read(directory)
    assert status is not None
    assert not status.state.is_final
    if number == signal.SIGTERM:
        assert is_gone(pids[1])
        assert status.state is State.stopped
    else:  # nobody was left to end what the command had started
        os.kill(pids[1], signal.SIGKILL)


def test_final_status_is_not_run_again(tmp_path: Path) -> None:
    directory = stand_in.make_cell(tmp_path, "reject")
    assert main([str(directory)]) == 2
    before = (directory / "log.txt").stat().st_mtime_ns
    assert main([str(directory)]) == 2
    assert (directory / "log.txt").stat().st_mtime_ns == before


def test_keeps_the_bundle_before_it_as_links(tmp_path: Path) -> None:
    bundle = tmp_path / "artifacts/a/fp32"
    (bundle / "engines").mkdir(parents=True)
    (bundle / "engines/x.plan").write_text("old")
    (bundle / "report.json").write_text("{}")
    directory = stand_in.make_cell(tmp_path)
    inode = (bundle / "engines/x.plan").stat().st_ino
    with Stop() as stopping:
        status = run_cell(directory, stopping)
    assert status.previous == str(directory / "previous")
    assert (directory / "previous/engines/x.plan").stat().st_ino == inode


def test_first_one_kept_stays_when_the_cell_runs_again(tmp_path: Path) -> None:
    directory = stand_in.make_cell(tmp_path)
    (directory / "previous").mkdir()
    (directory / "previous/from").write_text("before the night")
    (tmp_path / "artifacts/a/fp32").mkdir(parents=True)
    assert main([str(directory)]) == 0
    assert [path.name for path in (directory / "previous").iterdir()] == ["from"]


@pytest.mark.parametrize("spec", [None, "{}", '{"cell": {"name": 1}, "cwd": "."}'])
def test_no_cell_there(
    tmp_path: Path, spec: str | None, capsys: pytest.CaptureFixture[str]
) -> None:
    if spec is not None:
        (tmp_path / "cell.json").write_text(spec)
    assert main([str(tmp_path)]) == 1
    assert "is not a cell of a night" in capsys.readouterr().err


def test_by_index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    directories = [stand_in.make_cell(tmp_path, "error", name=name) for name in "ab"]
    listed = tmp_path / "list.txt"
    listed.write_text("".join(f"{directory}\n" for directory in directories))
    monkeypatch.setenv("JOB_COMPLETION_INDEX", "1")
    assert main(["--list", str(listed)]) == 1
    assert [Status.read(directory) is None for directory in directories] == [True, False]
    monkeypatch.setenv("JOB_COMPLETION_INDEX", "2")
    assert main(["--list", str(listed)]) == 1
    assert main(["--nonsense"]) == 1


def test_torn_status_is_no_status(tmp_path: Path) -> None:
    for text in ('{"schema": 1, "state": "publ', '{"schema": 2}', "[]", '{"schema": 1}'):
        (tmp_path / "status.json").write_text(text)
        assert Status.read(tmp_path) is None
