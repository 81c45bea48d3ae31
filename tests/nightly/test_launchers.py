"""Cells that others run: manifests that Kubernetes takes, and the wait for status files."""

import os
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from pipeline.errors import ConfigError, NightlyError
from pipeline.history.keep.status import State, Status
from pipeline.nightly.cells.matrix import make_cells
from pipeline.nightly.config import (
    DeviceConfig,
    DeviceKubernetesConfig,
    KubernetesConfig,
    NightlyConfig,
)
from pipeline.nightly.launchers import slurm
from pipeline.nightly.launchers.kubernetes import render_jobs, run_kubernetes
from pipeline.nightly.launchers.shared import wait_for_cells
from pipeline.nightly.night import Night
from pipeline.nightly.stop import Stop

kubernetes_validate = pytest.importorskip("kubernetes_validate")


def settings(tmp_path: Path, **changes: Any) -> NightlyConfig:
    gpu = DeviceKubernetesConfig(
        resources={"nvidia.com/gpu": "1"}, node_selector={"gpu": "l4"}, at_once=2
    )
    return NightlyConfig(
        hardware={"cpu": DeviceConfig(), "gpu": DeviceConfig(kubernetes=gpu, artifacts_dir="gpu")},
        devices=["cpu", "gpu"],
        kubernetes=KubernetesConfig(mount=str(tmp_path), **changes),
    )


def night_of(tmp_path: Path, config: NightlyConfig) -> Night:
    night = Night(id="20261121T020000Z", directory=tmp_path / "n", cells=make_cells(config))
    for cell in night.cells:
        night.of(cell).mkdir(parents=True)
    return night


def finish(night: Night, state: State = State.published) -> None:
    for cell in night.cells:
        Status(
            cell=cell.name, model="m", precision="p", device="d", command="c", state=state
        ).write(night.of(cell))


def test_manifests_are_valid_indexed_jobs(tmp_path: Path) -> None:
    config = settings(tmp_path, namespace="builds")
    night = night_of(tmp_path, config)
    jobs: list[Any] = [
        OmegaConf.to_container(OmegaConf.create(text))
        for text in render_jobs(night, night.cells, config).split("---\n")
    ]
    for job in jobs:
        kubernetes_validate.validate(job, "1.33", strict=True)
    assert [job["metadata"]["name"] for job in jobs] == [
        "nightly-20261121t020000z-cpu",
        "nightly-20261121t020000z-gpu",
    ]
    spec = jobs[1]["spec"]
    assert (spec["completionMode"], spec["completions"], spec["parallelism"]) == ("Indexed", 3, 2)
    pod = spec["template"]["spec"]
    assert pod["nodeSelector"] == {"gpu": "l4"}
    (container,) = pod["containers"]
    assert container["resources"] == {"limits": {"nvidia.com/gpu": "1"}}
    *command, listed = container["command"]
    assert command == ["python", "-m", "pipeline.nightly.cells.cell", "--list"]
    assert Path(listed).read_text().splitlines() == [str(night.of(c)) for c in night.cells[3:]]


def test_renders_only(tmp_path: Path) -> None:
    config = settings(tmp_path)
    night = night_of(tmp_path, config)
    assert run_kubernetes(night, night.cells, config, Stop(), lambda: None) is None
    assert (night.directory / "kubernetes.yaml").read_text().count("kind: Job") == 2


def test_cells_that_build_are_applied_once_the_others_have_ended(tmp_path: Path) -> None:
    config = settings(tmp_path)
    config.hardware["gpu"] = DeviceConfig(builds_from="cpu", target="sm_89")
    night = night_of(tmp_path, config)
    run_kubernetes(night, night.cells, config, Stop(), lambda: None)
    for name, device in {"kubernetes": "cpu", "kubernetes-engines": "gpu"}.items():
        job = OmegaConf.load(night.directory / f"{name}.yaml")
        assert job.metadata.labels.device == device


def test_slurm_starts_what_builds_after_what_publishes() -> None:
    assert slurm.waiting_for([]) == {}
    asked = {"additional_parameters": {"dependency": "afterany:12:13"}}
    assert slurm.waiting_for(["12_0", "12_1", "13_0"]) == asked


def test_waits_for_statuses_and_not_for_ever(tmp_path: Path) -> None:
    config = settings(tmp_path, wait_s=0.05)
    night = night_of(tmp_path, config)
    reasons = run_kubernetes(night, night.cells, config, Stop(), lambda: None)
    assert reasons == {
        cell.name: "no status after kubernetes.wait_s=0.05 s" for cell in night.cells
    }
    finish(night)
    assert run_kubernetes(night, night.cells, config, Stop(), lambda: None) == {}


def test_output_has_to_be_on_the_volume(tmp_path: Path) -> None:
    config = settings(tmp_path)
    config.kubernetes.mount = "/elsewhere"
    night = night_of(tmp_path, config)
    with pytest.raises(ConfigError, match=r"output=.* is not below kubernetes\.mount=/elsewhere"):
        run_kubernetes(night, night.cells, config, Stop(), lambda: None)


def test_job_that_ended_may_still_bring_a_status(tmp_path: Path) -> None:
    """A shared file system shows a file some seconds late: not missing at once."""
    night = night_of(tmp_path, settings(tmp_path))
    finish(night, State.running)
    calls: list[None] = []

    def refresh() -> None:
        calls.append(None)
        if len(calls) == 3:
            finish(night)

    reasons = wait_for_cells(
        night, night.cells, Stop(), refresh, lambda _: "ended", poll_s=0.01, settle_s=30
    )
    assert reasons == {}
    assert len(calls) == 4


def test_slurm_without_its_commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("submitit")
    monkeypatch.setenv("PATH", str(tmp_path))
    config = settings(tmp_path)
    with pytest.raises(NightlyError, match="no sbatch here"):
        slurm.run_slurm(night_of(tmp_path, config), (), config, Stop(), lambda: None)


def test_slurm_without_accounting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("submitit")
    for command in ("sbatch", "sacct"):
        program = tmp_path / command
        program.write_text("#!/bin/sh\necho 'Slurm accounting storage is disabled' >&2\nexit 1\n")
        program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    config = settings(tmp_path)
    with pytest.raises(NightlyError, match=r"sacct fails: Slurm accounting storage is disabled.*"):
        slurm.run_slurm(night_of(tmp_path, config), (), config, Stop(), lambda: None)
