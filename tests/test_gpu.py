"""What nvidia-smi says, from a stand-in for it; there is no GPU where these tests run."""

from pathlib import Path

import pytest

from pipeline.engines.gpu import gpu_clocks, gpu_memory_used


def stand_in(directory: Path, monkeypatch: pytest.MonkeyPatch, words: str) -> None:
    """Put an nvidia-smi on the path that repeats its query, then says ``words``."""
    command = directory / "nvidia-smi"
    command.write_text(f'#!/bin/sh\necho "$1" >> {directory}/asked\n{words}\n', "utf-8")
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
    asked = (tmp_path / "asked").read_text("utf-8").strip()
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
