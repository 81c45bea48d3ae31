"""The tritonserver that nvidia-pytriton carries, started on a bundle's own repository.

It has the python backend only, so the encoder is ``encoder_stand_in``. The package has a virtual
environment of its own, ``.triton`` (tests/helpers/triton_requirements.txt).
"""

import json
import os
import re
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path

from benchmarks.serving import encoder_stand_in

START_S = 120

PYTHON = Path(__file__).parents[2] / ".triton" / "bin" / "python"


class NoTritonError(Exception):
    """There is no tritonserver here, and why."""


def with_stand_in(
    bundle: Path, repository: Path, *, delay_us: int | None = None, instances: int | None = None
) -> Path:
    """Copy a bundle's repository, its encoder in the python backend, with other settings if given.

    ``delay_us`` is what both steps wait for others, ``instances`` how many encoders there are.
    """
    shutil.copytree(bundle / "triton", repository)
    encoder = next(repository.glob("*_encoder"))
    shutil.copyfile(encoder_stand_in.__file__, encoder / "1" / "model.py")
    config = encoder / "config.pbtxt"
    text = _replaced(config.read_text("utf-8"), 'platform: "onnxruntime_onnx"', 'backend: "python"')
    if instances is not None:
        text = re.sub(r"(?m)^instance_group.*\n", "", text)
        text += f"instance_group [ {{ count: {instances} kind: KIND_CPU }} ]\n"
    config.write_text(text, "utf-8")
    if delay_us is not None:
        for path in repository.glob("*_*/config.pbtxt"):
            text = path.read_text("utf-8")
            delay = "max_queue_delay_microseconds: "
            path.write_text(_replaced(text, rf"{delay}\d+", f"{delay}{delay_us}"), "utf-8")
    return repository


def _replaced(text: str, pattern: str, by: str) -> str:
    text, n = re.subn(pattern, by, text)
    if n != 1:
        raise ValueError(f"{pattern} stands {n} times in config.pbtxt, expected once")
    return text


def start_triton(repository: Path, scratch: Path) -> tuple["subprocess.Popen[bytes]", int]:
    """Return a server that is ready, and its port; its words go to ``scratch/triton.log``.

    Raises:
        NoTritonError: it is not installed, or not for this Python.
        TimeoutError: it was not ready in time, or it ended.
    """
    if not PYTHON.exists():
        raise NoTritonError(
            "nvidia-pytriton is not in .triton/ (tests/helpers/triton_requirements.txt)"
        )
    packages, libraries, version = _describe()
    home = packages / "pytriton" / "tritonserver"
    stub = home / "python_backend_stubs" / version / "triton_python_backend_stub"
    if not stub.is_file():
        raise NoTritonError(f"nvidia-pytriton has no python backend for Python {version}")
    backends = scratch / "backends"
    shutil.copytree(home / "backends", backends)
    shutil.copy(stub, backends / "python")
    port = free_port()
    environment = os.environ | {
        "LD_LIBRARY_PATH": f"{packages / 'nvidia_pytriton.libs'}{os.pathsep}{libraries}",
        "PATH": f"{PYTHON.parent}{os.pathsep}{os.environ['PATH']}",
    }
    command = [
        str(home / "bin" / "tritonserver"),
        f"--model-repository={repository}",
        f"--backend-directory={backends}",
        "--http-address=127.0.0.1",
        f"--http-port={port}",
        "--allow-grpc=false",
        "--allow-metrics=false",
        "--disable-auto-complete-config",
    ]
    log = scratch / "triton.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, env=environment, stdout=output, stderr=subprocess.STDOUT, cwd=scratch
        )
    try:
        _wait(process, port, log)
    except BaseException:
        process.kill()
        process.wait()
        raise
    return process, port


def counts(port: int, model: str) -> tuple[int, int]:
    """Return how many texts a model has computed, and in how many executions."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/v2/models/{model}/stats") as response:
        stats = json.load(response)["model_stats"][0]
    return int(stats["inference_count"]), int(stats["execution_count"])


def free_port() -> int:
    """Return a port that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait(process: "subprocess.Popen[bytes]", port: int, log: Path) -> None:
    end = time.monotonic() + START_S
    while time.monotonic() < end and process.poll() is None:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/v2/health/ready", timeout=60):
                return
        except (urllib.error.URLError, ConnectionError):
            time.sleep(0.1)
    raise TimeoutError(f"tritonserver is not ready:\n{log.read_text(errors='replace')[-4000:]}")


def _describe() -> tuple[Path, str, str]:
    """Return site-packages of .triton, the directory of its libpython, and its version."""
    code = (
        "import sysconfig as s; "
        "print(s.get_path('purelib'), s.get_config_var('LIBDIR'), sep='\\n'); "
        "print(s.get_python_version())"
    )
    lines = subprocess.run([PYTHON, "-c", code], check=True, capture_output=True, text=True)
    packages, libraries, version = lines.stdout.splitlines()
    return Path(packages), libraries, version
