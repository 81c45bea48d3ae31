"""Describe what a run ran on, for the report and the manifest."""

import os
import platform
import re
from importlib import metadata
from pathlib import Path
from typing import Any

from pipeline import __version__
from pipeline.engines.gpu import find_gpu

_DISTRIBUTION = "sentence-transformer-trt"
_BEHIND = ("huggingface-hub", "transformers")
"""Named by no requirement of ours, and what a Sentence Transformer is made of."""


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
        "packages": {name: version for name in _packages() if (version := _version(name))},
    }


def _packages() -> list[str]:
    """Return the names of all dependencies, those of every extra but ``dev`` included."""
    try:
        required = metadata.requires(_DISTRIBUTION) or []
    except metadata.PackageNotFoundError:  # run from a checkout that is not installed
        required = []
    names = {
        re.split(r"[^A-Za-z0-9._-]", line, maxsplit=1)[0].lower()
        for line in required
        if not re.search(r"""extra == ['"]dev['"]""", line)
    }
    return sorted({*names, *_BEHIND})


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
