"""Describe the GPU of this machine, if there is one."""

import contextlib
import ctypes
import functools
import importlib.util
import shutil
import subprocess
import sys
import uuid
from dataclasses import dataclass

_COMPUTE_CAPABILITY = (75, 76)
"""``CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR`` and ``_MINOR``, as cuda.h numbers them."""


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
    return _load_driver() is not None


def _load_driver() -> ctypes.CDLL | None:
    try:
        return ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
    except OSError:
        return None


@functools.cache
def find_gpu() -> Gpu | None:
    """Return the first CUDA device that this process sees, or None; needs no PyTorch."""
    device = _first_device()
    if device is None:
        return None
    driver, number = device
    name = ctypes.create_string_buffer(256)
    if driver.cuDeviceGetName(name, len(name), number) != 0:
        return None
    major, minor = (_attribute(driver, number, which) for which in _COMPUTE_CAPABILITY)
    return Gpu(
        name=name.value.decode(errors="replace"),
        compute_capability=(major, minor),
        driver=_driver(),
    )


def _first_device() -> tuple[ctypes.CDLL, ctypes.c_int] | None:
    """Return CUDA's driver and its number of the first device, CUDA_VISIBLE_DEVICES heeded."""
    driver = _load_driver()
    number = ctypes.c_int()
    if driver is None or driver.cuInit(0) != 0 or driver.cuDeviceGet(ctypes.byref(number), 0) != 0:
        return None
    return driver, number


def _attribute(driver: ctypes.CDLL, number: ctypes.c_int, which: int) -> int:
    value = ctypes.c_int()
    driver.cuDeviceGetAttribute(ctypes.byref(value), which, number)
    return value.value


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
    """Name the GPU that CUDA uses; nvidia-smi's numbers ignore CUDA_VISIBLE_DEVICES."""
    device = _first_device()
    if device is None:
        return "0"
    driver, number = device
    seen = (ctypes.c_ubyte * 16)()
    if driver.cuDeviceGetUuid(seen, number) != 0:
        return "0"
    return f"GPU-{uuid.UUID(bytes=bytes(seen))}"


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
