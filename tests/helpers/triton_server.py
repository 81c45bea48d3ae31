"""A tritonserver on a model repository, spoken to over HTTP as any client would."""

import contextlib
import json
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.serving.triton import NoTritonError, counts, start_triton


class Server:
    """A running server."""

    def __init__(self, port: int) -> None:
        self.port = port

    def infer(self, model: str, inputs: Mapping[str, Sequence[str]]) -> np.ndarray[Any, Any]:
        """Return the first output. Raises AssertionError with Triton's words where it refuses."""
        tensors = [
            {"name": name, "datatype": "BYTES", "shape": [len(texts), 1], "data": list(texts)}
            for name, texts in inputs.items()
        ]
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}/v2/models/{model}/infer",
            json.dumps({"inputs": tensors}).encode(),
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
        return counts(self.port, model)


@contextlib.contextmanager
def serve(repository: Path, scratch: Path) -> Iterator[Server]:
    """Serve a repository until the block ends; skip the test where nvidia-pytriton is missing."""
    try:
        process, port = start_triton(repository, scratch)
    except NoTritonError as error:
        pytest.skip(str(error))
    try:
        yield Server(port)
    finally:
        process.terminate()
        process.wait(60)
