"""ONNX Runtime's own CUDA provider on a machine without a GPU: what it takes, launches and calls.

``cuda_library.c`` stands in for CUDA's libraries, so nothing is computed. What the provider decides
on the CPU is real: which nodes are its own, whether it captures graphs, which kernels it launches.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from mmap import ACCESS_READ, mmap
from pathlib import Path
from typing import Any

import onnxruntime
import pytest

HERE = Path(__file__).parent
PROVIDER = Path(onnxruntime.__file__).parent / "capi" / "libonnxruntime_providers_cuda.so"
OURS = re.compile(r"^(__)?cu(da|blas|dnn|rand|[A-Z])")
EXTRA = ("libcudnn.so", "libcudnn.so.9", "libcuda.so.1")
DRIVER = (
    "cuInit",
    "cuDeviceGet",
    "cuDeviceGetUuid",
    "cuGetErrorName",
    "cuFuncSetAttribute",
    "cuFuncSetCacheConfig",
    "cuLinkCreate_v2",
    "cuLinkDestroy",
    "cuLinkComplete",
    "cuLinkAddFile_v2",
    "cuLinkAddData_v2",
    "cuModuleUnload",
    "cuLaunchCooperativeKernel",
)
"""What the provider looks for by name."""


@dataclass(frozen=True, kw_only=True)
class Call:
    """A call into CUDA: by which thread, and whether a stream was being captured."""

    thread: int
    captured: bool
    name: str
    detail: str


def skip_without_provider() -> None:
    """Skip where the provider or a C compiler is missing, or it is for another CUDA."""
    if sys.platform != "linux" or not PROVIDER.is_file():
        pytest.skip("this onnxruntime has no CUDA provider")
    if not all(map(shutil.which, ("cc", "nm", "readelf"))):
        pytest.skip("no C compiler")
    if "libcudart.so.13" not in _needed():
        pytest.skip("ONNX Runtime's CUDA provider is not for CUDA 13")


def build_library(directory: Path, *, cudnn: bool = True) -> Path:
    """Compile the stand-in into a directory under every name that the provider loads.

    ``cudnn`` False leaves cuDNN out, which the provider loads when it first needs it.
    """
    source = (HERE / "cuda_library.c").read_text("utf-8")
    wanted = {*_undefined(), *_cudnn(), *DRIVER}
    there = set(re.findall(r"\b(\w+)\(", source)) | set(re.findall(r"HANDLE\((\w+)\)", source))
    missing = sorted(wanted - there)
    rest = "".join(f"int {name}(void) {{ return 0; }}\n" for name in missing)
    path = directory / "cuda_library.c"
    path.write_text(f"{source}\n{rest}", "utf-8")
    library = directory / "lib" / "cuda_library.so"
    library.parent.mkdir()
    subprocess.run(["cc", "-shared", "-fPIC", "-w", "-o", library, path], check=True)
    for name in (*_needed(), *EXTRA):
        if ("cudnn" not in name or cudnn) and not (library.parent / name).exists():
            (library.parent / name).symlink_to(library.name)
    return library.parent


def run_on_library(
    library: Path, graph: Path, shapes: Sequence[tuple[int, int]], **variables: str
) -> tuple[dict[str, Any], list[Call]]:
    """Run shapes one after another in a bound session in a process of its own.

    Returns what the process said (``cuda_session.py``) and the provider's calls.
    """
    trace = library / "trace"
    trace.unlink(missing_ok=True)
    arguments = [str(HERE / "cuda_session.py"), str(library), str(graph), json.dumps(shapes)]
    said, _ = run_python(library, arguments, CUDA_LIBRARY_TRACE=str(trace), **variables)
    lines = (line.split("\t") for line in trace.read_text().splitlines())
    calls = [
        Call(thread=int(thread), captured=captured == "1", name=name, detail=detail)
        for thread, captured, name, detail in lines
    ]
    return json.loads(said.splitlines()[-1]), calls


def run_python(library: Path, arguments: Sequence[str], **variables: str) -> tuple[str, str]:
    """Run Python with the stand-in's directory in front, and return what it said, errors apart."""
    environment: Mapping[str, str] = {
        **os.environ,
        "LD_LIBRARY_PATH": str(library),
        "OMP_NUM_THREADS": "1",
        # cuDNN's fused attention, preferred from 9.0 on, would need more of cuDNN than stands here
        "ORT_ENABLE_CUDNN_FLASH_ATTENTION": "0",
        **variables,
    }
    done = subprocess.run(
        [sys.executable, *arguments],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout, done.stderr


def _needed() -> list[str]:
    """Return the names of CUDA's libraries that the provider is linked with."""
    said = subprocess.run(["readelf", "-d", PROVIDER], capture_output=True, text=True, check=True)
    return re.findall(r"\[(libcu[a-zA-Z]*\.so\.\d+)\]", said.stdout)


def _undefined() -> list[str]:
    said = subprocess.run(
        ["nm", "-D", "--undefined-only", PROVIDER], capture_output=True, text=True, check=True
    )
    names = (line.split()[-1].partition("@")[0] for line in said.stdout.splitlines())
    return [name for name in names if OURS.match(name)]


def _cudnn() -> set[str]:
    """Return the functions of cuDNN that the provider looks for by name."""
    with PROVIDER.open("rb") as file, mmap(file.fileno(), 0, access=ACCESS_READ) as content:
        return {name.decode() for name in re.findall(rb"\0(cudnn[A-Z]\w+)(?=\0)", content)}
