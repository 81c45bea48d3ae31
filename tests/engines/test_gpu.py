"""What nvidia-smi says, from a stand-in for it; there is no GPU where these tests run."""

from pathlib import Path
from typing import Any

import pytest

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


class Driver:
    """NVIDIA's driver with one GPU, or with none."""

    def __init__(self, failing: str = "") -> None:
        self.failing = failing

    def _code(self, name: str) -> int:
        return 100 if name == self.failing else 0

    def cuInit(self, flags: int) -> int:
        return self._code("cuInit")

    def cuDeviceGet(self, number: Any, index: int) -> int:
        number._obj.value = 5 + index
        return self._code("cuDeviceGet")

    def cuDeviceGetName(self, name: Any, size: int, number: Any) -> int:
        assert number.value == 5
        name.value = b"NVIDIA L4"
        return self._code("cuDeviceGetName")

    def cuDeviceGetAttribute(self, value: Any, which: int, number: Any) -> int:
        value._obj.value = {75: 8, 76: 9}[which]
        return 0

    def cuDeviceGetUuid(self, seen: Any, number: Any) -> int:
        seen[:] = bytes.fromhex("ffc794988ff3c2dc3b0dfafd804516ae")
        return self._code("cuDeviceGetUuid")


def test_asks_about_the_gpu_that_cuda_shows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """nvidia-smi's GPU 0 is the machine's first whatever CUDA_VISIBLE_DEVICES says."""
    stand_in(tmp_path, monkeypatch, 'echo "512"')
    monkeypatch.setattr("ctypes.CDLL", lambda _name: Driver())
    gpu_memory_used()
    asked = (tmp_path / "asked").read_text("utf-8").split()
    assert "--id=GPU-ffc79498-8ff3-c2dc-3b0d-fafd804516ae" in asked


def test_the_gpu_by_the_driver_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in(tmp_path, monkeypatch, 'echo "580.1"')
    monkeypatch.setattr("ctypes.CDLL", lambda _name: Driver())
    found = gpu.find_gpu.__wrapped__()
    assert found == gpu.Gpu(name="NVIDIA L4", compute_capability=(8, 9), driver="580.1")


@pytest.mark.parametrize("failing", ["cuInit", "cuDeviceGet", "cuDeviceGetName"])
def test_a_driver_without_a_gpu(failing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ctypes.CDLL", lambda _name: Driver(failing))
    assert gpu.find_gpu.__wrapped__() is None
