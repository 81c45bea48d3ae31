"""Cells as jobs of a real Slurm: .ci/slurm starts one and runs this."""

import os
import shutil
from pathlib import Path

import pytest
import stand_in

pytest.importorskip("submitit")


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("sbatch") is None, reason="no Slurm here: .ci/slurm starts one")
@pytest.mark.skipif("SLURM_CONF" not in os.environ, reason="no Slurm runs: .ci/slurm starts one")
def test_arrays_of_two_devices(tmp_path: Path) -> None:
    do = {"a-fp32-cpu": "SIGSEGV", "b-fp32-gpu": "reject", "a-fp32-gpu": "hang"}
    command = stand_in.nightly(
        tmp_path,
        do,
        "launcher=slurm",
        "devices=[cpu,gpu]",
        "hardware.gpu.artifacts_dir=gpu",
        "hardware.cpu.slurm.partition=cpu",
        "hardware.gpu.slurm.partition=gpu",
        "hardware.gpu.slurm.cpus=1",
        "hardware.gpu.slurm.memory_gib=1",
        "hardware.cpu.slurm.memory_gib=1",
        "+timeouts={a-fp32-gpu:5}",
    )
    env = {**os.environ, **stand_in.environment(tmp_path)}
    done = stand_in.run_nightly(tmp_path, env, command)
    assert done.returncode == 1, done.stderr
    assert "1 of 4 cells published, 1 rejected, 1 crashed, 1 timeout" in done.stdout
    assert "reproduce: CUDA_VISIBLE_DEVICES=0 python -m pipeline" in done.stdout
    assert len(list(tmp_path.glob("nights/*/slurm/gpu/*_submission.sh"))) == 1
