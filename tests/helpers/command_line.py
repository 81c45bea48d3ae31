"""Run the pipeline on a small model: as a user does, in a process of its own, or in this one."""

import os
import subprocess
import sys
from pathlib import Path

from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

import pipeline
from pipeline.config import CONF_DIR, PipelineConfig, register_schema
from pipeline.contracts import Outcome

COMMAND = [sys.executable, "-m", "pipeline"]
SMALL = [
    "validate.timing_sentences=16",
    "validate.min_rounds=6",
    "validate.max_rounds=6",
    "validate.latency_runs=5",
    "validate.cold=false",
    "validate.grid.batch=[1,2]",
    "validate.grid.sequence=[16]",
    "validate.gates.speed.int8=null",
    "validate.gates.published.speed=null",
    "validate.max_sentences=40",
    "precision.calibration_sentences=40",
]
"""What makes a run on the tiny model short, and its outcome the same on a busy machine."""

ANY_INT8 = [
    f"validate.gates.{gate}.int8=null"
    for gate in ("cosine_mean", "cosine_p1", "tasks", "invariance")
]
"""Gates off that random weights in int8 do not pass."""


def settings(directory: Path) -> list[str]:
    """Return the arguments for a short run on the model in ``directory``, named tiny."""
    return ["model=custom", "model.name=tiny", f"model.directory={directory}", *SMALL]


def environment() -> dict[str, str]:
    """Return this process's environment, with the package under test importable from anywhere."""
    ours = {"HYDRA_FULL_ERROR", "PIPELINE_LOG_LEVEL"}
    variables = {name: value for name, value in os.environ.items() if name not in ours}
    return variables | {"PYTHONPATH": str(Path(pipeline.__file__).parent.parent)}


def run_command(
    *arguments: str, cwd: Path, program: str | None = None
) -> subprocess.CompletedProcess[str]:
    """Run ``python -m pipeline`` to its end, or a ``program`` that ends in its ``main``."""
    command = COMMAND if program is None else [sys.executable, "-c", program]
    return subprocess.run(
        [*command, *arguments],
        cwd=cwd,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def outcome_of(*arguments: str) -> Outcome:
    """Run the pipeline in this process and return how it ended."""
    from pipeline.flow.run import run

    register_schema()
    with initialize_config_dir(str(CONF_DIR), version_base="1.3"):
        config = OmegaConf.to_object(compose("config", list(arguments)))
    assert isinstance(config, PipelineConfig)
    return run(config)


def run_here(*arguments: str) -> Path:
    """Run the pipeline in this process and return the published bundle."""
    outcome = outcome_of(*arguments)
    assert outcome.published, outcome.report.failed_gates
    return outcome.path
