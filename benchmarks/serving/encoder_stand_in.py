"""The encoder in Triton's python backend: nvidia-pytriton has no onnxruntime backend.

Same name, inputs, output and batching as the one in the bundle; it runs the same ``model.onnx``.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort


class TritonPythonModel:
    """What Triton's python backend calls."""

    def initialize(self, args: dict[str, str]) -> None:
        """Open the graph of this version."""
        options = ort.SessionOptions()
        options.enable_mem_pattern = False
        path = Path(args["model_repository"], args["model_version"], "model.onnx")
        self._session = ort.InferenceSession(str(path), options, ["CPUExecutionProvider"])
        self._inputs = [i.name for i in self._session.get_inputs()]

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """Answer requests of one length with one run."""
        import triton_python_backend_utils as triton  # exists inside Triton only

        def read(request: Any, name: str) -> Any:
            return triton.get_input_tensor_by_name(request, name).as_numpy()

        # np.concatenate: fails unless all that Triton put together are of one length.
        feed = {n: np.concatenate([read(r, n) for r in requests]) for n in self._inputs}
        rows = [len(read(request, "input_ids")) for request in requests]
        vectors = np.split(self._session.run(["sentence_embedding"], feed)[0], np.cumsum(rows)[:-1])
        return [
            triton.InferenceResponse([triton.Tensor("sentence_embedding", part)])
            for part in vectors
        ]
