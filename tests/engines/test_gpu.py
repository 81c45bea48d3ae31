"""What nvidia-smi says, from a stand-in for it; there is no GPU where these tests run."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from pipeline.engines import gpu
from pipeline.engines.gpu import gpu_clocks, gpu_memory_used


def stand_in(directory: Path, monkeypatch: pytest.MonkeyPatch, words: str) -> None:
    """Put an nvidia-smi on the path that repeats its query, then says ``words``."""
    command = directory / "nvidia-smi"
    command.write_text(f'#!/bin/sh\necho "$@" >> {directory}/asked\n{words}\n', "utf-8")
    command.chmod(0o755)
    monkeypatch.setenv("PATH", str(directory), prepend=":")


def test_clocks_and_power(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in(tmp_path, monkeypatch, 'echo "1980, 2619, 350.25, [N/A], 41"; echo "0, 0, 0, 0, 0"')
    assert gpu_clocks() == {
        "sm_mhz": 1980.0,
        "memory_mhz": 2619.0,
        "power_w": 350.25,
        "temperature_c": 41.0,
    }
    asked = (tmp_path / "asked").read_text("utf-8").split()[0]
    assert asked == "--query-gpu=clocks.sm,clocks.mem,power.draw,power.limit,temperature.gpu"


@pytest.mark.parametrize(
    ("words", "bytes_used"), [('echo "512"', 512 * 2**20), ('echo "[N/A]"', None), ("exit 9", None)]
)
def test_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: str, bytes_used: int | None
) -> None:
    stand_in(tmp_path, monkeypatch, words)
    assert gpu_memory_used() == bytes_used


def test_without_nvidia_smi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert gpu_memory_used() is None
    assert gpu_clocks() is None


def test_asks_about_the_gpu_that_cuda_shows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """nvidia-smi's GPU 0 is the machine's first whatever CUDA_VISIBLE_DEVICES says."""
    stand_in(tmp_path, monkeypatch, 'echo "512"')
    monkeypatch.setattr(gpu, "has_cuda_driver", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    properties = SimpleNamespace(uuid="ffc79498-8ff3-c2dc-3b0d-fafd804516ae")
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: properties)
    gpu_memory_used()
    asked = (tmp_path / "asked").read_text("utf-8").split()
    assert "--id=GPU-ffc79498-8ff3-c2dc-3b0d-fafd804516ae" in asked
