"""The tritonserver that nvidia-pytriton carries, started on a model repository."""

import contextlib
import json
import os
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

START_S = 120


class Server:
    """A running server, spoken to over HTTP as any client would."""

    def __init__(self, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}/v2"

    def get(self, path: str) -> Any:
        with urllib.request.urlopen(f"{self.url}/{path}", timeout=60) as response:
            body = response.read()
        return json.loads(body) if body else None

    def infer(self, model: str, inputs: Mapping[str, Sequence[str]]) -> np.ndarray[Any, Any]:
        """Return the first output. Raises AssertionError with Triton's words where it refuses."""
        tensors = [
            {"name": name, "datatype": "BYTES", "shape": [len(texts), 1], "data": list(texts)}
            for name, texts in inputs.items()
        ]
        request = urllib.request.Request(
            f"{self.url}/models/{model}/infer", json.dumps({"inputs": tensors}).encode()
        )
        try:
            with urllib.request.urlopen(request, timeout=60) as response:
                output = json.load(response)["outputs"][0]
        except urllib.error.HTTPError as error:
            with error:
                raise AssertionError(json.load(error)["error"]) from None
        return np.array(output["data"], dtype=np.float32).reshape(output["shape"])

    def counts(self, model: str) -> tuple[int, int]:
        """Return how many texts a model has computed, and in how many executions."""
        stats = self.get(f"models/{model}/stats")["model_stats"][0]
        return int(stats["inference_count"]), int(stats["execution_count"])


@contextlib.contextmanager
def serve(repository: Path, scratch: Path) -> Iterator[Server]:
    """Serve a repository until the block ends; skip the test where nvidia-pytriton is missing."""
    python = Path(__file__).parents[2] / ".triton" / "bin" / "python"
    if not python.exists():
        pytest.skip("nvidia-pytriton is not in .triton/ (tests/helpers/triton_requirements.txt)")
    packages, libraries, version = _describe(python)
    home = packages / "pytriton" / "tritonserver"
    stub = home / "python_backend_stubs" / version / "triton_python_backend_stub"
    if not stub.is_file():
        pytest.skip(f"nvidia-pytriton has no python backend for Python {version}")
    backends = scratch / "backends"
    shutil.copytree(home / "backends", backends)
    shutil.copy(stub, backends / "python")
    port = _free_port()
    environment = os.environ | {
        "LD_LIBRARY_PATH": f"{packages / 'nvidia_pytriton.libs'}{os.pathsep}{libraries}",
        "PATH": f"{python.parent}{os.pathsep}{os.environ['PATH']}",
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
        server = Server(port)
        _wait(server, process, log)
        yield server
    finally:
        process.terminate()
        process.wait(60)


def _wait(server: Server, process: subprocess.Popen[bytes], log: Path) -> None:
    end = time.monotonic() + START_S
    while time.monotonic() < end:
        assert process.poll() is None, log.read_text(errors="replace")[-4000:]
        try:
            server.get("health/ready")
        except (urllib.error.URLError, ConnectionError):
            time.sleep(0.1)
        else:
            return
    raise AssertionError(f"not ready in {START_S} s:\n{log.read_text(errors='replace')[-4000:]}")


def _describe(python: Path) -> list[Any]:
    """Return an interpreter's site-packages, the directory of its libpython, and its version."""
    code = (
        "import sysconfig as s; "
        "print(s.get_path('purelib'), s.get_config_var('LIBDIR'), sep='\\n'); "
        "print(s.get_python_version())"
    )
    lines = subprocess.run([python, "-c", code], check=True, capture_output=True, text=True)
    packages, libraries, version = lines.stdout.splitlines()
    return [Path(packages), libraries, version]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
