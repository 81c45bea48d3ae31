"""TensorRT's lean runtime: 44 MB that run version-compatible plans, and build none.

A plan that TensorRT built with ``engine.version_compatible=true`` loads in the lean runtime of the
same major version, from the version that built it on
(https://docs.nvidia.com/deeplearning/tensorrt/latest/inference-library/advanced.html#version-compatibility).
"""

import importlib
import re

from pipeline.engines import tensorrt
from pipeline.engines.cuda import missing
from pipeline.engines.gpu import find_gpu, is_installed

MODULES = ("tensorrt_lean", "tensorrt_lean_bindings")
"""The package's own name, and the wheel that does the work and can be imported by itself."""


def lean_module() -> str | None:
    """Return the name under which the lean runtime can be imported here, or None without it."""
    return next((name for name in MODULES if is_installed(name)), None)


def plan_module(
    runtime: str, version: str, target: str, *, version_compatible: bool
) -> tuple[str | None, str | None]:
    """Return the module that runs a plan here, or None and why there is none.

    The runtime that built it comes first; the lean runtime loads version-compatible plans of
    TensorRT only.
    """
    reason = tensorrt.obstacle(runtime, version, target)
    if reason is None:
        return runtime, None
    module = lean_module() if runtime == "tensorrt" else None
    gpu = find_gpu()
    if module is None or gpu is None:
        return None, reason
    if not version_compatible:
        return (
            None,
            f"{reason}; the lean runtime takes plans of engine.version_compatible=true only",
        )
    installed = str(importlib.import_module(module).__version__)
    if target != gpu.target or not _loads(version, installed):
        return None, (
            f"built for {target} with TensorRT {version}, this is {gpu.target} ({gpu.name}) with "
            f"the lean runtime of TensorRT {installed}"
        )
    reason = missing()
    return (module, None) if reason is None else (None, reason)


def _loads(built: str, installed: str) -> bool:
    """Whether a lean runtime loads what was built: the same major version, not an older one."""
    old, new = (tuple(map(int, re.findall(r"\d+", text)))[:3] for text in (built, installed))
    return bool(old) and old[0] == new[0] and old <= new
