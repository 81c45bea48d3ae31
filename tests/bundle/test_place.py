"""store: nothing half done is ever visible, and nothing of a dead run stays."""

import json
import logging
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import command_line
import numpy as np
import pytest

from pipeline.bundle.place import publish_directory, staging
from pipeline.errors import PublishError
from pipeline.runtime import load

HOLD = """
import sys
from pathlib import Path
from pipeline.bundle.place import staging
with staging(Path(sys.argv[1])) as work:
    (work / "half").write_text("done")
    print(work, flush=True)
    sys.stdin.read()
"""
"""A run that works until its standard input closes."""


def left(artifacts: Path) -> list[Path]:
    """What is in the staging area."""
    return sorted((artifacts / ".staging").iterdir())


@pytest.fixture
def other_run(tmp_path: Path) -> Iterator[tuple[subprocess.Popen[str], Path]]:
    """Another process that holds a staging directory under ``tmp_path``, and that directory."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)],
        env=command_line.environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        assert process.stdout is not None
        yield process, Path(process.stdout.readline().strip())
        process.kill()


def test_staging_is_removed(tmp_path: Path) -> None:
    with staging(tmp_path / "artifacts") as work:
        (work / "deep").mkdir()
        (work / "deep" / "file").write_text("x")
    assert left(tmp_path / "artifacts") == []


def test_staging_is_removed_after_an_error(tmp_path: Path) -> None:
    def fail() -> None:
        with staging(tmp_path) as work:
            (work / "file").write_text("x")
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        fail()
    assert left(tmp_path) == []


def test_staging_directories_are_distinct(tmp_path: Path) -> None:
    with staging(tmp_path) as one, staging(tmp_path) as two:
        assert one != two
        assert one.is_dir()
        assert two.is_dir()


def test_living_run_keeps_its_staging(
    tmp_path: Path, other_run: tuple[subprocess.Popen[str], Path]
) -> None:
    _, theirs = other_run
    with staging(tmp_path):
        assert (theirs / "half").read_text() == "done"
    assert (theirs / "half").read_text() == "done"


def test_dead_run_is_cleaned_up_by_the_next(
    tmp_path: Path, other_run: tuple[subprocess.Popen[str], Path]
) -> None:
    process, theirs = other_run
    process.kill()
    process.wait()
    assert theirs.is_dir()
    with staging(tmp_path) as ours:
        assert not theirs.exists()
        assert ours.is_dir()
    assert left(tmp_path) == []


def test_staging_that_cannot_be_written(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("not a directory")
    with pytest.raises(PublishError, match=r"cannot write .*file.*artifacts_dir"), staging(file):
        pass


def version(directory: Path, number: int, *, files: int = 5) -> Path:
    """Write a bundle whose files all hold ``number``."""
    directory.mkdir(parents=True)
    names = [f"file{i}" for i in range(files)]
    for name in names:
        (directory / name).write_text(str(number))
    manifest = {"version": number, "files": names}
    (directory / "manifest.json").write_text(json.dumps(manifest))
    return directory


def read(target: Path) -> dict[str, str]:
    return {
        path.name: path.read_text() for path in target.iterdir() if path.name != "manifest.json"
    }


def test_publish_where_nothing_was(tmp_path: Path) -> None:
    source = version(tmp_path / "work", 1)
    publish_directory(source, tmp_path / "out" / "tiny" / "int8")
    assert set(read(tmp_path / "out" / "tiny" / "int8").values()) == {"1"}
    assert not source.exists()


@pytest.mark.parametrize("can_swap", [True, False])
def test_publish_replaces_all_of_the_old(
    tmp_path: Path,
    can_swap: bool,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    if not can_swap:
        monkeypatch.setattr("ctypes.CDLL", lambda *_, **__: SimpleNamespace())  # no renameat2
    target = tmp_path / "out" / "int8"
    publish_directory(version(tmp_path / "work" / "1", 1, files=7), target)
    with caplog.at_level(logging.WARNING):
        publish_directory(version(tmp_path / "work" / "2", 2, files=3), target)
    assert read(target) == {"file0": "2", "file1": "2", "file2": "2"}
    assert list((tmp_path / "work").iterdir()) == []
    assert [p.name for p in target.parent.glob("[!.]*")] == ["int8"]
    assert ("cannot swap" in caplog.text) is (not can_swap)


class Reader(threading.Thread):
    """Reads the target over and over and keeps what was wrong with what it saw."""

    def __init__(self, target: Path) -> None:
        super().__init__()
        self.target = target
        self.stop = threading.Event()
        self.seen: list[int] = []
        self.wrong: list[str] = []

    def run(self) -> None:
        while not self.stop.is_set():
            try:
                directory = os.open(self.target, os.O_DIRECTORY)
            except OSError as error:
                self.wrong.append(f"missing: {error}")
                continue
            try:
                complaint = self.look(directory)
                # what this directory lacks only counts while it is the published one
                if complaint and self.target.stat().st_ino == os.fstat(directory).st_ino:
                    self.wrong.append(complaint)
            except OSError as error:
                self.wrong.append(f"missing: {error}")
            finally:
                os.close(directory)

    def look(self, directory: int) -> str | None:
        try:
            manifest = json.loads(self.text(directory, "manifest.json"))
            for name in manifest["files"]:
                if self.text(directory, name) != str(manifest["version"]):
                    return f"version {manifest['version']} with another {name}"
        except (OSError, ValueError) as error:
            return f"partial: {error}"
        self.seen.append(manifest["version"])
        return None

    @staticmethod
    def text(directory: int, name: str) -> str:
        descriptor = os.open(name, os.O_RDONLY, dir_fd=directory)
        with os.fdopen(descriptor) as stream:
            return stream.read()


@pytest.mark.slow
def test_readers_never_see_half_a_bundle(tmp_path: Path) -> None:
    target = tmp_path / "out" / "int8"
    publish_directory(version(tmp_path / "work" / "0", 0), target)
    reader = Reader(target)
    reader.start()
    number = 0
    while number < 50 or (len(set(reader.seen)) <= 5 and number < 5000):  # a busy reader: more
        number += 1
        publish_directory(version(tmp_path / "work" / str(number), number), target)
        time.sleep(0.002)
    deadline = time.monotonic() + 300
    while reader.seen[-1:] != [number] and time.monotonic() < deadline:
        time.sleep(0.01)
    reader.stop.set()
    reader.join()
    assert reader.wrong == []
    assert reader.seen == sorted(reader.seen)
    assert len(set(reader.seen)) > 5
    assert reader.seen[-1] == number


def test_publish_errors_name_the_target_and_the_key(tmp_path: Path) -> None:
    source = version(tmp_path / "work", 1)
    file = tmp_path / "file"
    file.write_text("not a directory")
    with pytest.raises(PublishError, match=r"cannot publish .*file/int8.*artifacts_dir"):
        publish_directory(source, file / "int8")
    assert source.is_dir()


def test_publish_of_nothing_keeps_the_old(tmp_path: Path) -> None:
    target = tmp_path / "out" / "int8"
    publish_directory(version(tmp_path / "work", 1), target)
    with pytest.raises(PublishError, match="cannot publish"):
        publish_directory(tmp_path / "nothing", target)
    assert set(read(target).values()) == {"1"}


def kill(arguments: list[str], cwd: Path, moment: Callable[[], bool]) -> bool:
    """Start a run and kill it, children too, once ``moment`` says so; return whether it lived."""
    process = subprocess.Popen(
        [*command_line.COMMAND, *arguments],
        cwd=cwd,
        env=command_line.environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    while process.poll() is None and not moment():
        time.sleep(0.001)
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
    return process.wait() == -signal.SIGKILL


@pytest.mark.slow
def test_killed_runs_leave_the_bundle_whole(tmp_path: Path, tiny_dir: Path) -> None:
    artifacts = tmp_path / "artifacts"
    arguments = [*command_line.settings(tiny_dir), "precision=fp32", f"artifacts_dir={artifacts}"]
    texts = ["A sentence.", "Another one, and longer.", ""]
    bundle = command_line.run_here(*arguments)
    vectors = load(bundle, "onnxruntime").encode(texts)
    chance = random.Random(0)

    def after_start(seconds: float) -> Callable[[], bool]:
        end = time.monotonic() + seconds
        return lambda: time.monotonic() > end

    def while_publishing(delay: float) -> Callable[[], bool]:
        dead = set(artifacts.glob(".staging/*/bundle"))
        started: list[float] = []

        def moment() -> bool:
            if not started and set(artifacts.glob(".staging/*/bundle")) - dead:
                started.append(time.monotonic())
            return bool(started) and time.monotonic() > started[0] + delay

        return moment

    def check() -> None:
        assert [path.name for path in bundle.parent.glob("[!.]*")] == ["fp32"]
        encoder = load(bundle, "onnxruntime")
        np.testing.assert_allclose(encoder.encode(texts), vectors, atol=1e-6)

    landed = messy = 0
    for early in (True, False, True, False, True, False):
        moment = (
            after_start(chance.uniform(2, 8))
            if early
            else while_publishing(chance.uniform(0, 0.06))
        )
        landed += kill(arguments, tmp_path, moment)
        messy += left(artifacts) != []
        check()
    assert landed >= 4
    assert messy >= 1
    command_line.run_here(*arguments)
    check()
    assert left(artifacts) == []
