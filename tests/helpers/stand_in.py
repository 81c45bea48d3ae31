"""A stand-in for ``python -m pipeline`` and ``pipeline.build`` in a cell: it fails on demand.

It takes over through ``sitecustomize`` on the cell's PYTHONPATH; what it does is in dataset.path.
"""

import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import command_line

from pipeline.nightly.cells.cell import write_cell
from pipeline.nightly.cells.matrix import Cell

_SITECUSTOMIZE = """
import json, os, signal, subprocess, sys, time
from pathlib import Path

def say(*lines):
    print(*lines, sep="\\n", flush=True)

def tell(**outcome):
    told = {"schema": 1, "exit": None, "stage": "export", "gates": [], "bundle": None}
    told |= {"message": None} | outcome
    Path(os.environ["PIPELINE_OUTCOME"]).write_text(json.dumps(told))

def leave(directory, **report):
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "report.json").write_text(json.dumps(report))

if sys.orig_argv[1:3] == ["-m", "pipeline.build"]:
    bundle, _, target, *options = sys.orig_argv[3:]
    tell(stage="check")
    if "--runtime=reject" in options:
        tell(exit=2, stage="check", gates=["cosine.mean 0.5 < 0.9"], message="not its vectors")
        os._exit(2)
    assert Path(bundle, "report.json").is_file()
    engine = Path(bundle, "engines", "tensorrt-11.4.0-" + target)
    engine.mkdir(parents=True)
    cosine = {"mean": 0.9995, "p1": 0.999, "min": 0.998}
    measured = {"executed": True, "device": "cuda", "agreement": {"n": 256, "cosine": cosine}}
    if "--no-check" in options:
        measured = {"executed": False, "reason": "no CUDA device on this machine"}
    manifest = {"runtime": "tensorrt", "target": target, "measured": measured, "environment": {}}
    (engine / "manifest.json").write_text(json.dumps(manifest))
    tell(exit=0, stage="check", bundle=bundle, engines=[engine.name])
    os._exit(0)

if sys.orig_argv[1:3] == ["-m", "pipeline"]:
    settings = dict(argument.split("=", 1) for argument in sys.orig_argv[3:])
    do = settings.get("dataset.path", "publish")
    name = settings["model.name"]
    target = Path(settings["artifacts_dir"], name, settings["precision"])
    say("12:00:00 resolve …", "12:00:01 resolve done in 1.0 s", "12:00:01 export …")
    tell()
    if do == "reject":
        leave(target.with_name(target.name + ".rejected"), passed=False)
        tell(exit=2, stage="validate", gates=["cosine.mean 0.5 < 0.9 (validate.gates)"])
        os._exit(2)
    if do == "error":
        tell(exit=1, message="the graph is odd; set exporter=optimum")
        os._exit(1)
    if do.startswith("SIG"):
        os.kill(os.getpid(), signal.Signals[do])
    if do == "137":
        os._exit(137)
    if do == "nothing":
        os._exit(0)
    if do == "hang":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        child = subprocess.Popen(["sleep", "1000"])
        partial = Path("pids.partial")
        partial.write_text(f"{os.getpid()} {child.pid}")
        partial.rename("pids")
        time.sleep(1000)
    if do == "wait":
        with open("started", "a") as file:
            file.write(f"{settings['precision']} ")
        while not Path("go").exists():
            time.sleep(0.02)
    leave(target, name=name, devices=os.environ.get("CUDA_VISIBLE_DEVICES"))
    tell(exit=0, stage="publish", bundle=str(target))
    os._exit(0)
"""


def environment(directory: Path) -> dict[str, str]:
    """Return an environment in which cells run the stand-in."""
    (directory / "sitecustomize.py").write_text(_SITECUSTOMIZE)
    ours = command_line.environment()
    return ours | {"PYTHONPATH": f"{ours['PYTHONPATH']}:{directory}"}


def make_cell(cwd: Path, do: str = "publish", timeout_s: float = 60, name: str = "a") -> Path:
    """Write a cell that runs in ``cwd`` and return its directory."""
    cell = Cell(
        name=f"{name}-fp32-cpu",
        model=name,
        precision="fp32",
        device="cpu",
        arguments=(
            "model=custom",
            f"model.name={name}",
            "precision=fp32",
            f"dataset.path={do}",
            "artifacts_dir=artifacts",
        ),
        target=f"artifacts/{name}/fp32",
        timeout_s=timeout_s,
        grace_s=0.5,
    )
    directory = cwd / "night" / cell.name
    write_cell(cell, directory, cwd)
    return directory


def nightly(
    cwd: Path, do: Mapping[str, str], *arguments: str, precisions: Sequence[str] = ("fp32",)
) -> list[str]:
    """Return the command of a night of models a and b; ``do`` is by the names of cells."""
    overrides = ",".join(f'{cell}:["dataset.path={what}"]' for cell, what in do.items())
    return [
        sys.executable,
        "-m",
        "pipeline.nightly",
        "models=[a,b]",
        f"precisions=[{','.join(precisions)}]",
        "+custom_models={a:[],b:[]}",
        f"+overrides={{{overrides}}}",
        "grace_s=0.5",
        f"output={cwd}/nights",
        *arguments,
    ]


def run_nightly(
    cwd: Path, env: Mapping[str, str], command: Sequence[str]
) -> subprocess.CompletedProcess[str]:
    """Run a night to its end."""
    return subprocess.run(
        command, cwd=cwd, env=dict(env), capture_output=True, text=True, timeout=300, check=False
    )


def until(condition: Callable[[], bool], seconds: float = 60) -> None:
    """Wait until the condition holds."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def is_gone(pid: int) -> bool:
    """Whether a process has ended, reaped or not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return True
    return state in "ZX"
