"""What is left of a command that a signal ends: one line, its exit code, and nothing else."""

import errno
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import command_line
import pytest

from pipeline.errors import disk_error
from pipeline.files import write_text

WAIT = "print('ready', flush=True); time.sleep(60)"

SCRIPTS = {
    "staging": f"""
import time, pipeline.ending as ending
from pathlib import Path
from pipeline.bundle.place import staging
def do():
    with staging(Path("artifacts")) as work:
        (work / "half").write_text("a graph")
        {WAIT}
raise SystemExit(ending.run_to_end(do, left="nothing was done"))
""",
    "a finalizer, which drops what is raised": f"""
import time, pipeline.ending as ending
class Dropped:
    def __del__(self):
        {WAIT}
def do():
    Dropped()
    time.sleep(60)
raise SystemExit(ending.run_to_end(do, left="nothing was done"))
""",
    "native code that makes another error of it": f"""
import time, pipeline.ending as ending
def do():
    try:
        {WAIT}
    except BaseException:
        raise RuntimeError("a callback failed")
raise SystemExit(ending.run_to_end(do, left="nothing was done"))
""",
    "an error line of the command's own": f"""
import time, pipeline.ending as ending
def do():
    try:
        {WAIT}
    except BaseException:
        return 1
raise SystemExit(ending.run_to_end(do, left="nothing was done"))
""",
    "a build": """
import time, pipeline.ending as ending
from pathlib import Path
from pipeline.engines.build_messages import BuildRequest
from pipeline.engines.builder import run_build
def child(sender, request):
    Path("child").write_text(str(__import__("os").getpid()))
    print("ready", flush=True)
    time.sleep(60)
def do():
    request = BuildRequest(
        runtime="tensorrt_rtx", model=Path("m.onnx"), plan=Path("m.plan"), profiles=(),
        workspace_mib=1, optimization_level=None, timing_cache=None,
    )
    run_build(request, timeout_s=60, child=child)
if __name__ == "__main__":
    raise SystemExit(ending.run_to_end(do, left="nothing was done"))
""",
}


def ignore_sigterm() -> None:
    """As for process 1 of a container, and what a parent that ignores it hands on."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


def end(
    directory: Path, command: list[str], sent: signal.Signals = signal.SIGTERM
) -> tuple[int, str]:
    """Start a command that says when it waits, send it a signal, return its code and stderr."""
    with subprocess.Popen(
        command,
        cwd=directory,
        env=command_line.environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=ignore_sigterm,  # noqa: PLW1509 - no threads here
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(sent)
        _, err = process.communicate(timeout=120)
    return process.returncode, err


@pytest.mark.slow
@pytest.mark.parametrize("where", SCRIPTS)
def test_sigterm_in(where: str, tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(SCRIPTS[where])
    code, err = end(tmp_path, [sys.executable, "script.py"])
    assert (code, err) == (143, "ended by SIGTERM: nothing was done\n")
    left = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*")}
    if where == "a build":
        with pytest.raises(ProcessLookupError):
            os.kill(int((tmp_path / "child").read_text()), 0)
    assert left <= {
        "script.py",
        "child",
        "__pycache__",
        "artifacts",
        "artifacts/.staging",
        "artifacts/.staging.lock",
    }


@pytest.mark.parametrize(
    ("sent", "code", "word"),
    [(signal.SIGHUP, 129, "ended by SIGHUP"), (signal.SIGINT, 130, "interrupted")],
)
def test_other_signals(tmp_path: Path, sent: signal.Signals, code: int, word: str) -> None:
    (tmp_path / "script.py").write_text(SCRIPTS["staging"])
    before = signal.getsignal(sent)
    signal.signal(sent, signal.SIG_DFL)  # a runner that ignores it, as nohup does, hands that on
    try:
        ended = end(tmp_path, [sys.executable, "script.py"], sent)
    finally:
        signal.signal(sent, before)
    assert ended == (code, f"{word}: nothing was done\n")
    assert not list((tmp_path / "artifacts/.staging").iterdir())


TWICE = """
import os, signal, sys, time, pipeline.ending as ending
from pathlib import Path
from pipeline.bundle.place import staging
first, second = (signal.Signals[name] for name in sys.argv[1:])
def do():
    with staging(Path("artifacts")) as work:
        try:
            (work / "half").write_text("a graph")
            print("ready", flush=True)
            os.kill(os.getpid(), first)
            time.sleep(60)
        finally:
            for _ in range(3):
                os.kill(os.getpid(), second)
                time.sleep(0.01)
            print("cleaned", flush=True)
raise SystemExit(ending.run_to_end(do, left="nothing was done"))
"""


def take_ctrl_c() -> None:
    """A runner that ignores it, as nohup does, hands that on."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.mark.slow
@pytest.mark.parametrize("second", ["SIGTERM", "SIGHUP", "SIGINT"])
@pytest.mark.parametrize(
    ("first", "code", "word"),
    [
        ("SIGTERM", 143, "ended by SIGTERM"),
        ("SIGHUP", 129, "ended by SIGHUP"),
        ("SIGINT", 130, "interrupted"),
    ],
)
def test_a_second_signal_does_not_disturb_what_cleans_up(
    first: str, second: str, code: int, word: str, tmp_path: Path
) -> None:
    (tmp_path / "script.py").write_text(TWICE)
    done = subprocess.run(
        [sys.executable, "script.py", first, second],
        cwd=tmp_path,
        env=command_line.environment(),
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=take_ctrl_c,
    )
    assert (done.returncode, done.stderr) == (code, f"{word}: nothing was done\n")
    assert done.stdout == "ready\ncleaned\n"
    assert not list((tmp_path / "artifacts/.staging").iterdir())


PRINTS = """
import sys, pipeline.ending as ending
def do():
    print("a line\\n" * int(sys.argv[1]), end="")
    return 0
raise SystemExit(ending.run_to_end(do, left="nothing was done"))
"""


@pytest.mark.parametrize("lines", [1, 100_000])
def test_output_that_nobody_takes(lines: int, tmp_path: Path) -> None:
    """As ``| head`` leaves it, and a full disk; whether it fails at once or when it is flushed."""
    (tmp_path / "script.py").write_text(PRINTS)
    reading, writing = os.pipe()
    os.close(reading)
    seen = []
    for out in (writing, os.open("/dev/full", os.O_WRONLY)):
        done = subprocess.run(
            [sys.executable, "script.py", str(lines)],
            cwd=tmp_path,
            env=command_line.environment(),
            stdout=out,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
        os.close(out)
        seen.append((done.returncode, done.stderr))
    assert seen == [(1, ""), (1, "error: cannot read or write: No space left on device\n")]


COMMANDS = {
    "pipeline.__main__": ("run_and_share", "main()", "nothing unfinished was published"),
    "pipeline.inspect": ("inspect", "main([])", "nothing unfinished was published"),
    "pipeline.nightly.__main__": ("run_night", "main()", "nothing unfinished was published"),
    "pipeline.encode": ("encode_files", "main(['b', 't.txt', 'v.npy'])", "nothing was written"),
    "pipeline.build": ("require_intact", "main(['b'])", "nothing was added"),
    "pipeline.share": ("pull", "main(['pull', 'hf://a/b', 'c'])", "nothing was put in place"),
    "pipeline.verify": ("verify_bundle", "main(['b'])", "not verified"),
    "pipeline.compare": ("read_bundles", "main(['b'])", "nothing was written"),
    "pipeline.history.__main__": (
        "open_database",
        "main(['--database', 'd', 'show'])",
        "nothing was changed",
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("module", COMMANDS)
def test_every_command_ends_in_order(module: str, tmp_path: Path) -> None:
    inner, call, left = COMMANDS[module]
    script = (
        f"import time, {module} as command\n"
        f"def wait(*_, **__):\n    {WAIT}\n"
        f"command.{inner} = wait\nraise SystemExit(command.{call})\n"
    )
    (tmp_path / "script.py").write_text(script)
    arguments = ["model=minilm", "precision=fp32"] if module == "pipeline.__main__" else []
    code, err = end(tmp_path, [sys.executable, "script.py", *arguments])
    assert (code, err) == (143, f"ended by SIGTERM: {left}\n")


HALF_A_STAGE = f"""
import time, pipeline.__main__ as command
from pipeline.flow.timed_stages import Stages
run = Stages.run
def half(out):
    out.mkdir()
    (out / "graph.onnx").write_text("a graph")
    {WAIT}
Stages.run = lambda self, name, kind, parts, make: run(self, name, kind, parts, half)
raise SystemExit(command.main())
"""


@pytest.mark.slow
def test_a_run_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The command, its staging and its store are the real ones; the stage waits half-made."""
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "modules.json").write_text("[]")
    (tmp_path / "script.py").write_text(HALF_A_STAGE)
    outcome = tmp_path / "outcome.json"
    monkeypatch.setenv("PIPELINE_OUTCOME", str(outcome))
    settings = ["model=custom", "model.name=tiny", f"model.directory={tmp_path / 'model'}"]
    code, err = end(tmp_path, [sys.executable, "script.py", *settings, "precision=fp32"])
    assert code == 143
    assert err.splitlines()[-1] == "ended by SIGTERM: nothing unfinished was published"
    assert "Traceback" not in err
    assert not list((tmp_path / "artifacts/.staging").iterdir())
    assert not list(tmp_path.rglob("graph.onnx"))
    assert not list(tmp_path.glob("artifacts/.cache/*/*.tmp"))
    told = json.loads(outcome.read_text())
    assert (told["exit"], told["message"]) == (143, "ended by SIGTERM")


def test_a_read_only_disk_keeps_its_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Removing what could not be written fails too, with words that say less."""

    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def read_only(*_: Any, **__: Any) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(Path, "open", full)
    monkeypatch.setattr(Path, "unlink", read_only)
    with pytest.raises(OSError, match="No space left"):
        write_text(tmp_path / "report.json", "{}")


TOGETHER = """
import contextlib, io, json, os, sys
import pipeline.__main__ as command
from tokenizers import Tokenizer, models
from pipeline.errors import ExportError
def rust(*_):
    Tokenizer(models.BPE()).save("/dev/full")
def wrapped(*_):
    try:
        raise RuntimeError("open file g.onnx fail, errcode = 28 - No space left on device")
    except RuntimeError as error:
        raise ExportError("cannot export") from error
for what, setting in json.loads(sys.argv[1]):
    sys.argv[1:] = ["model=minilm", "precision=fp32", setting]
    if what:
        command.run_and_share = globals()[what]
    os.environ.pop("HYDRA_FULL_ERROR", None)  # which a run sets for itself
    with contextlib.redirect_stderr(io.StringIO()) as err:
        try:
            code = command.main()
        except SystemExit as stop:
            code = stop.code
    print(json.dumps([code, err.getvalue()]))
"""

EMPTY = {"artifacts_dir": "", "model.directory": "", "dataset.path": " "}
PLACES = ("/proc/1/x", "file/x")
FULL = ("rust", "wrapped")


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Any]]:
    """What the command said, and its code, by what was wrong; all of it in one process."""
    directory = tmp_path_factory.mktemp("wrong")
    (directory / "file").write_text("no directory")
    (directory / "script.py").write_text(TOGETHER)
    wrong = {
        **{key: ("", f"{key}={value}") for key, value in EMPTY.items()},
        **{place: ("", f"hydra.run.dir={place}") for place in PLACES},
        **{library: (library, "optimize=true") for library in FULL},
    }
    done = subprocess.run(
        [sys.executable, "script.py", json.dumps(list(wrong.values()))],
        cwd=directory,
        env=command_line.environment(),
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stderr == ""
    assert not list(directory.rglob("*.onnx"))
    return dict(zip(wrong, map(json.loads, done.stdout.splitlines()), strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("library", FULL)
def test_a_full_disk_by_whatever_library(library: str, told: dict[str, list[Any]]) -> None:
    assert told[library] == [
        1,
        "error: cannot read or write: No space left on device; nothing was published; set "
        "artifacts_dir to a directory that is writable and has room\n",
    ]


def test_no_disk_to_blame() -> None:
    assert disk_error(ValueError("a graph")) is None
    assert disk_error(FileNotFoundError(errno.ENOENT, "no such file")) is None


@pytest.mark.slow
@pytest.mark.parametrize("key", EMPTY)
def test_an_empty_path_is_not_the_current_directory(key: str, told: dict[str, list[Any]]) -> None:
    assert told[key] == [1, f"error: {key} is empty: give it a value, or leave it out\n"]


@pytest.mark.slow
@pytest.mark.parametrize("place", PLACES)
def test_hydra_cannot_write(place: str, told: dict[str, list[Any]]) -> None:
    code, err = told[place]
    assert code == 1
    assert err.count("\n") == 1
    assert err.startswith(f"error: cannot write {place}")
    assert "set hydra.run.dir" in err
