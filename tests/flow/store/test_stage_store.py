"""The stage store: made once, read whole or not at all, never a reason for a run to fail."""

import json
import logging
import multiprocessing
import os
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from filelock import FileLock

from pipeline.config import NumericType
from pipeline.contracts import OnnxModel, TensorSpec, sha256_file
from pipeline.flow.store.stage_store import StageStore, StoreLimits

PARTS = {"code": "1", "calibration text": "a", "versions": "x"}
SHAPE = (TensorSpec(name="input_ids", dtype="int64", shape=("batch", 3)),)


class Stage:
    """Writes two files and counts how often it was asked to."""

    def __init__(self, content: bytes = b"graph") -> None:
        self.content = content
        self.made = 0

    def __call__(self, out: Path) -> OnnxModel:
        self.made += 1
        (out / "sub").mkdir(parents=True)
        (out / "model.onnx").write_bytes(self.content)
        (out / "sub" / "more.json").write_text("{}")
        return OnnxModel(
            path=out / "model.onnx",
            sha256=sha256_file(out / "model.onnx"),
            precision=NumericType.int8,
            inputs=SHAPE,
            outputs=(),
            source_sha256="0" * 64,
        )


class Runs:
    """Gives every run a work directory of its own, as the pipeline does."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.root = directory / "store"
        self.count = 0

    def __call__(
        self,
        stage: Stage,
        parts: dict[str, str] = PARTS,
        *,
        refresh: bool = False,
        root: Path | None = None,
    ) -> tuple[OnnxModel, bool]:
        self.count += 1
        work = self.directory / f"work{self.count}"
        work.mkdir()
        store = StageStore(root or self.root, refresh=refresh)
        found = store.get_or_make("export", OnnxModel, parts, "minilm", work, stage)
        check(found[0], work, stage)
        return found

    def entry(self) -> Path:
        (found,) = (path.parent for path in self.root.glob("export/*/entry.json"))
        return found


def check(model: OnnxModel, work: Path, stage: Stage) -> None:
    assert model.path == work / "export" / "model.onnx"
    assert model.path.read_bytes() == stage.content
    assert (work / "export" / "sub" / "more.json").read_text() == "{}"
    assert model.precision is NumericType.int8
    assert model.inputs == SHAPE


@pytest.fixture
def runs(tmp_path: Path) -> Runs:
    return Runs(tmp_path)


def test_made_once_and_then_taken(runs: Runs) -> None:
    stage = Stage()
    first, cached = runs(stage)
    assert not cached
    again, cached = runs(stage)
    assert cached
    assert stage.made == 1
    assert again == OnnxModel(
        path=again.path,
        sha256=first.sha256,
        precision=first.precision,
        inputs=first.inputs,
        outputs=first.outputs,
        source_sha256=first.source_sha256,
    )
    assert again.path.stat().st_ino == first.path.stat().st_ino  # linked, not copied


@pytest.mark.parametrize("part", list(PARTS))
def test_another_part_is_made_anew_and_named(
    runs: Runs, part: str, caplog: pytest.LogCaptureFixture
) -> None:
    runs(Stage())
    stage = Stage(b"other")
    with caplog.at_level(logging.INFO, "pipeline.flow.store"):
        _, cached = runs(stage, PARTS | {part: "changed"})
    assert not cached
    assert stage.made == 1
    assert f"export anew: {part} changed" in caplog.messages


def test_refresh_replaces(runs: Runs) -> None:
    runs(Stage(b"old"))
    _, cached = runs(Stage(b"new"), refresh=True)
    assert not cached
    _, cached = runs(Stage(b"new"))
    assert cached
    assert len(list(runs.root.glob("export/*"))) == 2  # the entry and its lock


def test_no_store(tmp_path: Path) -> None:
    stage = Stage()
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        made, cached = StageStore(None).get_or_make(
            "export", OnnxModel, PARTS, "minilm", tmp_path / name, stage
        )
        check(made, tmp_path / name, stage)
        assert not cached
    assert stage.made == 2


def test_a_failed_stage_leaves_nothing(runs: Runs) -> None:
    def fail(out: Path) -> OnnxModel:
        out.mkdir()
        (out / "half").write_text("x")
        raise RuntimeError("stage")

    store = StageStore(runs.root)
    with pytest.raises(RuntimeError, match="stage"):
        store.get_or_make("export", OnnxModel, PARTS, "minilm", runs.directory, fail)
    assert list(runs.root.glob("export/*/entry.json")) == []
    shutil.rmtree(runs.directory / "export")
    _, cached = runs(Stage())  # and its lock is free
    assert not cached


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def in_place(change: Callable[[Path], object], name: str) -> Callable[[Path], None]:
    def damage(entry: Path) -> None:
        change(entry / name)

    return damage


def edit_record(entry: Path) -> None:
    record = json.loads((entry / "entry.json").read_text())
    record["artifact"]["sha256"] = "1" * 64
    (entry / "entry.json").write_text(json.dumps(record))


DAMAGE: dict[str, Callable[[Path], None]] = {
    "bit flip": in_place(flip, "files/model.onnx"),
    "truncated": in_place(lambda path: os.truncate(path, 2), "files/model.onnx"),
    "longer": in_place(lambda path: path.write_bytes(path.read_bytes() + b"x"), "files/model.onnx"),
    "missing file": in_place(Path.unlink, "files/sub/more.json"),
    "record flipped": in_place(flip, "entry.json"),
    "record truncated": in_place(lambda path: os.truncate(path, 40), "entry.json"),
    "record empty": in_place(lambda path: path.write_text(""), "entry.json"),
    "record a list": in_place(lambda path: path.write_text("[]"), "entry.json"),
    "record edited": edit_record,
    "no record": in_place(Path.unlink, "entry.json"),
    "not UTF-8": in_place(lambda path: path.write_bytes(b"\xff\xfe"), "entry.json"),
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=list(DAMAGE))
def test_a_damaged_entry_is_never_used(
    runs: Runs, damage: Callable[[Path], None], caplog: pytest.LogCaptureFixture
) -> None:
    runs(Stage())
    for file in runs.entry().rglob("*"):  # not the first run's files too, which are linked
        if file.is_file():
            file.write_bytes(file.read_bytes())
    damage(runs.entry())
    stage = Stage()
    _, cached = runs(stage)
    assert not cached
    assert stage.made == 1
    warnings = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    assert len(warnings) == 1
    assert warnings[0].endswith("; removed")
    _, cached = runs(stage)
    assert cached


def test_writing_through_a_link_is_noticed(runs: Runs) -> None:
    """A published bundle shares its files with the store: who edits one edits the other."""
    made, _ = runs(Stage())
    made.path.write_bytes(b"edited")
    _, cached = runs(Stage())
    assert not cached


def make_slowly(root: Path, work: Path, tally: Path) -> None:
    work.mkdir()

    def make(out: Path) -> OnnxModel:
        with tally.open("a") as stream:
            stream.write("made\n")
        time.sleep(0.3)
        return Stage()(out)

    model, _ = StageStore(root).get_or_make("export", OnnxModel, PARTS, "minilm", work, make)
    check(model, work, Stage())


@pytest.mark.slow
def test_eight_processes_make_it_once(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    tally = tmp_path / "tally"
    processes = [
        context.Process(target=make_slowly, args=(tmp_path / "s", tmp_path / f"w{i}", tally))
        for i in range(8)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0] * 8
    assert tally.read_text() == "made\n"


def test_a_dead_builder_does_not_hold_up_the_next(runs: Runs) -> None:
    context = multiprocessing.get_context("fork")
    started = context.Event()

    def hang(out: Path) -> OnnxModel:
        out.mkdir(parents=True)
        started.set()
        time.sleep(60)
        raise AssertionError

    def build() -> None:
        StageStore(runs.root).get_or_make(
            "export", OnnxModel, PARTS, "minilm", runs.directory / "dead", hang
        )

    process = context.Process(target=build)
    process.start()
    assert started.wait(30)
    process.kill()
    process.join()
    _, cached = runs(Stage())
    assert not cached


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 KiB, where this user may mount one."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(disk)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("a tmpfs cannot be mounted here")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def warnings_of(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]


def test_a_full_disk_costs_the_entry_only(
    runs: Runs, small_disk: Path, caplog: pytest.LogCaptureFixture
) -> None:
    stage = Stage(b"x" * 100_000)
    _, cached = runs(stage, root=small_disk / "store")
    assert not cached
    assert list(small_disk.glob("store/export/*/entry.json")) == []
    assert list(small_disk.glob("store/export/*.tmp")) == []
    (warning,) = warnings_of(caplog)
    assert "No space left on device: this run goes on without it" in warning


def test_a_read_only_store_can_be_read_and_is_not_written(
    runs: Runs, small_disk: Path, caplog: pytest.LogCaptureFixture
) -> None:
    root = small_disk / "store"
    runs(Stage(), root=root)
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    _, cached = runs(Stage(), root=root)
    assert cached
    assert warnings_of(caplog) == []
    _, cached = runs(Stage(), PARTS | {"code": "2"}, root=root)
    assert not cached
    (warning,) = warnings_of(caplog)
    assert "Read-only file system: this run goes on without it (cache.directory" in warning
    StageStore(root).collect(StoreLimits(age_s=0))


def test_a_store_that_is_no_directory(runs: Runs, caplog: pytest.LogCaptureFixture) -> None:
    file = runs.directory / "file"
    file.write_text("x")
    _, cached = runs(Stage(), root=file)
    assert not cached
    assert len(warnings_of(caplog)) == 1
    assert file.read_text() == "x"


# Tidying.


def add(runs: Runs, name: str, used: float, size: int = 1000) -> None:
    """Add an entry of ``size`` bytes, last used at a time."""
    before = set(runs.root.glob("export/*/entry.json"))
    runs(Stage(name.encode() * (size // len(name))), PARTS | {"code": name})
    (path,) = set(runs.root.glob("export/*/entry.json")) - before
    os.utime(path, (used, used))


def kept(runs: Runs) -> set[str]:
    records = (json.loads(p.read_text()) for p in runs.root.glob("export/*/entry.json"))
    return {record["parts"]["code"] for record in records}


def test_the_least_recently_used_goes_first(runs: Runs) -> None:
    now = time.time()
    for age, name in enumerate(["now", "day", "old"]):
        add(runs, name, now - 86400 * age, size=30_000)
    runs(Stage(b"old" * 10_000), PARTS | {"code": "old"})  # used again
    StageStore(runs.root).collect(StoreLimits(bytes=70_000))
    assert kept(runs) == {"now", "old"}
    assert list(runs.root.glob("export/*.tmp")) == []
    assert len(list(runs.root.glob("export/*.lock"))) == 2


def test_what_was_not_used_for_long_goes(runs: Runs) -> None:
    now = time.time()
    add(runs, "new", now - 10)
    add(runs, "old", now - 1000)
    StageStore(runs.root).collect(StoreLimits(age_s=500))
    assert kept(runs) == {"new"}
    StageStore(runs.root).collect(StoreLimits())
    assert kept(runs) == {"new"}


def test_a_time_in_the_future_is_now(runs: Runs) -> None:
    """Another machine's clock may be ahead."""
    add(runs, "ahead", time.time() + 5000)
    StageStore(runs.root).collect(StoreLimits(age_s=500))
    assert kept(runs) == {"ahead"}
    _, cached = runs(Stage(b"ahead" * 200), PARTS | {"code": "ahead"})
    assert cached


def test_leftovers_of_the_dead_go_and_those_of_the_living_stay(runs: Runs) -> None:
    runs(Stage())
    for name in ("dead", "living"):
        (runs.root / "export" / f"{name}.tmp").mkdir()
    with FileLock(runs.root / "export" / "living.lock"):
        thread = threading.Thread(target=StageStore(runs.root).collect, args=(StoreLimits(),))
        thread.start()
        thread.join()
    assert {path.name for path in runs.root.glob("export/*.tmp")} == {"living.tmp"}
    assert runs.entry().is_dir()


def test_an_entry_in_the_making_is_not_collected(runs: Runs) -> None:
    add(runs, "x", 0)
    with FileLock(f"{runs.entry()}.lock"):
        thread = threading.Thread(
            target=StageStore(runs.root).collect, args=(StoreLimits(age_s=1),)
        )
        thread.start()
        thread.join()
    assert kept(runs) == {"x"}


def test_what_is_on_its_way_in_is_no_entry(runs: Runs) -> None:
    """A builder holds its key's lock; what it has not renamed yet is not old, nor too much."""
    add(runs, "x", 0)
    entry = runs.entry()
    entry.rename(entry.with_name("living.tmp"))
    with FileLock(entry.with_name("living.lock")):
        thread = threading.Thread(
            target=StageStore(runs.root).collect, args=(StoreLimits(age_s=1),)
        )
        thread.start()
        thread.join()
    assert (entry.with_name("living.tmp") / "entry.json").is_file()


def test_what_a_run_took_survives_the_store(runs: Runs) -> None:
    runs(Stage())
    model, cached = runs(Stage())
    assert cached
    shutil.rmtree(runs.root)
    assert model.path.read_bytes() == b"graph"
