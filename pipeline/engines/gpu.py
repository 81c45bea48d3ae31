"""Describe the GPU of this machine, if there is one."""

import contextlib
import ctypes
import functools
import importlib.util
import shutil
import subprocess
import sys
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Gpu:
    """What an engine is built for; ``driver`` is None where nvidia-smi does not say."""

    name: str
    compute_capability: tuple[int, int]
    driver: str | None

    @property
    def target(self) -> str:
        """The compute capability as TensorRT and Triton write it: ``sm_89``."""
        major, minor = self.compute_capability
        return f"sm_{major}{minor}"


def is_installed(module: str) -> bool:
    """Whether a module can be imported; a bare directory of that name does not count."""
    spec = importlib.util.find_spec(module)
    return spec is not None and spec.origin is not None


@functools.cache
def has_cuda_driver() -> bool:
    """Whether NVIDIA's driver is on this machine; needs no PyTorch."""
    try:
        ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
    except OSError:
        return False
    return True


@functools.cache
def find_gpu() -> Gpu | None:
    """Return the CUDA device that PyTorch would use, or None."""
    if not has_cuda_driver():
        return None
    import torch

    if not torch.cuda.is_available():
        return None
    return Gpu(
        name=torch.cuda.get_device_name(),
        compute_capability=torch.cuda.get_device_capability(),
        driver=_driver(),
    )


def _driver() -> str | None:
    values = _query("driver_version")
    return values[0] if values and values[0] else None


def name_gpu(index: str) -> str | None:
    """Return the name of the GPU of that index or UUID, as nvidia-smi says it; needs no PyTorch."""
    values = _query("name", index)
    return values[0] if values and values[0] else None


def _query(fields: str, index: str | None = None) -> list[str] | None:
    """Return nvidia-smi's values, of the GPU in use where ``index`` is None.

    None where there is no nvidia-smi, or it fails.
    """
    command = shutil.which("nvidia-smi")
    if command is None:
        return None
    query = [
        command,
        f"--query-gpu={fields}",
        "--format=csv,noheader,nounits",
        f"--id={index or _id()}",
    ]
    try:
        done = subprocess.run(query, capture_output=True, text=True, timeout=30, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return [value.strip() for value in done.stdout.split("\n")[0].split(",")]


def _id() -> str:
    """Name the GPU that PyTorch uses; nvidia-smi's numbers ignore CUDA_VISIBLE_DEVICES."""
    if not has_cuda_driver():
        return "0"
    import torch

    if not torch.cuda.is_available():
        return "0"
    return f"GPU-{torch.cuda.get_device_properties(0).uuid}"


def gpu_memory_used() -> int | None:
    """Return the bytes in use on the GPU, by all processes, or None where nobody says."""
    values = _query("memory.used")
    try:
        return None if values is None else int(float(values[0]) * 2**20)
    except ValueError:  # "[N/A]"
        return None


def gpu_clocks() -> dict[str, float] | None:
    """Return clocks (MHz), power (W) and temperature (degrees Celsius) of the GPU at once.

    None where nvidia-smi is missing; a value that the GPU does not tell is left out.
    """
    names = {
        "sm_mhz": "clocks.sm",
        "memory_mhz": "clocks.mem",
        "power_w": "power.draw",
        "power_limit_w": "power.limit",
        "temperature_c": "temperature.gpu",
    }
    values = _query(",".join(names.values()))
    if values is None:
        return None
    seen = {}
    for name, value in zip(names, values, strict=True):
        with contextlib.suppress(ValueError):  # "[N/A]"
            seen[name] = float(value)
    return seen
