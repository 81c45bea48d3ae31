"""What a run ran on, for the report and the manifest."""

import os
import platform
from importlib import metadata
from pathlib import Path
from typing import Any

from pipeline import __version__
from pipeline.engines.gpu import find_gpu

_PACKAGES = (
    "torch",
    "sentence-transformers",
    "transformers",
    "tokenizers",
    "optimum",
    "optimum-onnx",
    "onnx",
    "onnx-ir",
    "onnxscript",
    "onnxruntime-gpu",
    "polygraphy",
    "tensorrt",
    "tensorrt-rtx",
    "hydra-core",
    "pytrec-eval-terrier",
    "numpy",
)


def describe_environment() -> dict[str, Any]:
    """Return versions of Python, packages and driver, and the names of CPU and GPU."""
    gpu = find_gpu()
    return {
        "pipeline": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(terse=True),
        "cpu": _cpu(),
        "cpu_count": os.cpu_count(),
        "gpu": None
        if gpu is None
        else {
            "name": gpu.name,
            "compute_capability": ".".join(map(str, gpu.compute_capability)),
            "driver": gpu.driver,
        },
        "packages": {name: version for name in _PACKAGES if (version := _version(name))},
    }


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
