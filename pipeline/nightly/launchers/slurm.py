"""Run cells as Slurm jobs, through submitit: one array for each device of the matrix."""

import math
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Any

from pipeline.errors import NightlyError
from pipeline.nightly.cells.matrix import Cell
from pipeline.nightly.config import DeviceConfig, NightlyConfig
from pipeline.nightly.launchers.shared import wait_for_cells
from pipeline.nightly.night import Night
from pipeline.nightly.stop import Stop

if TYPE_CHECKING:
    import submitit

    Job = submitit.Job[str]

_POLL_S = 2.0


def run_slurm(
    night: Night,
    cells: Sequence[Cell],
    config: NightlyConfig,
    stopping: Stop,
    refresh: Callable[[], None],
) -> dict[str, str]:
    """Submit the cells and wait; return why a cell has no final status, by its name.

    Raises:
        NightlyError: no Slurm here, one without accounting, or it refuses the jobs.
    """
    _check_slurm()
    jobs: dict[str, Job] = {}
    try:
        for device, group in groupby(cells, key=lambda cell: cell.device):
            jobs |= _submit(night, device, tuple(group), config, jobs)
        return wait_for_cells(
            night, cells, stopping, refresh, lambda cell: _why(jobs[cell.name]), poll_s=_POLL_S
        )
    finally:
        unfinished = {cell.name for cell in night.pending()}
        for name in unfinished & set(jobs):
            jobs[name].cancel(check=False)
        if stopping.signal is not None and unfinished & set(jobs):
            time.sleep(min(config.grace_s, 30))  # they write that they were stopped


def _submit(
    night: Night,
    device: str,
    cells: Sequence[Cell],
    config: NightlyConfig,
    submitted: "Mapping[str, Job]",
) -> "dict[str, Job]":
    import submitit

    executor = submitit.SlurmExecutor(folder=night.directory / "slurm" / device)
    parameters = _parameters(device, cells, config.hardware[device], config)
    before = [submitted[c.after].job_id for c in cells if c.after and c.after in submitted]
    executor.update_parameters(**parameters, **waiting_for(before))
    runner = submitit.helpers.CommandFunction([sys.executable, "-m", "pipeline.nightly.cells.cell"])
    try:
        jobs = executor.map_array(runner, [str(night.of(cell)) for cell in cells])
    except (submitit.core.utils.FailedJobError, OSError) as error:
        raise NightlyError(
            f"Slurm refuses the cells of {device}: {' '.join(str(error).split())[-300:]}; set "
            f"hardware.{device}.slurm"
        ) from error
    return dict(zip((cell.name for cell in cells), jobs, strict=True))


def waiting_for(jobs: Sequence[str]) -> dict[str, Any]:
    """Return submitit's words for a job that starts once these have ended, however they did."""
    arrays = dict.fromkeys(job.partition("_")[0] for job in jobs)
    if not arrays:
        return {}
    return {"additional_parameters": {"dependency": f"afterany:{':'.join(arrays)}"}}


def _parameters(
    device: str, cells: Sequence[Cell], hardware: DeviceConfig, config: NightlyConfig
) -> dict[str, Any]:
    """Return submitit's names and values; what is null stays the cluster's choice."""
    longest = max(cell.timeout_s + 4 * cell.grace_s for cell in cells)
    wanted = hardware.slurm
    asked = {
        "partition": wanted.partition,
        "gres": wanted.gres,
        "cpus_per_task": wanted.cpus,
        "mem": None if wanted.memory_gib is None else f"{math.ceil(wanted.memory_gib * 1024)}M",
        "account": wanted.account,
        "setup": config.slurm.setup or None,
    }
    return {
        "job_name": f"nightly-{device}",
        "time": math.ceil(longest / 60) + 1,
        "array_parallelism": wanted.at_once,
        "stderr_to_stdout": True,
        **{name: value for name, value in asked.items() if value is not None},
    }


def _why(job: "Job") -> str | None:
    """Return how Slurm ended a job, None while it may still run."""
    if not job.done():
        return None
    return f"Slurm job {job.job_id} ended as {job.state} without a status; see {job.paths.stdout}"


def _check_slurm() -> None:
    """Refuse what submitit would wait for without end: a Slurm that cannot say how a job ended."""
    try:
        import submitit  # noqa: F401 - only whether it is there
    except ImportError as error:
        raise NightlyError(
            "launcher=slurm needs submitit: pip install 'sentence-transformer-trt[slurm]'"
        ) from error
    for command in ("sbatch", "sacct"):
        if shutil.which(command) is None:
            raise NightlyError(
                f"launcher=slurm: no {command} here; run it where Slurm's commands are, "
                "or set launcher=local"
            )
    done = subprocess.run(["sacct", "-n", "-X"], capture_output=True, text=True, check=False)  # noqa: S607
    if done.returncode != 0:
        raise NightlyError(
            f"sacct fails: {' '.join(done.stderr.split())[:200]}; launcher=slurm needs Slurm's "
            "accounting (slurmdbd), which alone knows of a job that died"
        )
