"""Run ``model.onnx`` in OpenVINO on the CPU."""

import importlib.util
import os
import threading
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.config import NumericType
from pipeline.contracts import GRAPH_OUTPUT
from pipeline.engines.forking import forked_from
from pipeline.errors import MeasureError
from pipeline.text.tokens import TokenBatch, bucket

VECTOR = 16
"""Numbers of fp32 that a CPU's widest instructions take at once (AVX-512)."""


def missing() -> str | None:
    """Return why OpenVINO cannot run here, or None where it can."""
    if importlib.util.find_spec("openvino") is None:
        return "Python package openvino is not installed (extra: openvino)"
    parent = forked_from()
    if parent is not None:
        return (
            f"process {parent} had loaded a bundle when this one was forked from it, and OpenVINO "
            "hangs in such a child; load after the fork only, or start workers by 'spawn'"
        )
    return None


class OpenVINOEncoder:
    """``model.onnx`` in OpenVINO's CPU plugin.

    fp32 and fp16 graphs compute in fp32, whatever the CPU offers: OpenVINO's own default is bf16
    where there is hardware for it, coarser than either. bf16 graphs compute in bf16 there, and
    elsewhere in fp32 with the graph's own rounding. int8 graphs keep that default; what lies
    between their GEMMs is no finer than int8's steps anyway
    (https://docs.openvino.ai/2025/openvino-workflow/running-inference/optimize-inference/precision-control.html).

    A shape costs tens of milliseconds when it is first seen, so rows and lengths are padded to
    few. Where activations are rounded, to int8 or bf16, lengths are padded to whole vectors:
    attention adds up what is left over of a vector in another order than in a whole one, so how a
    text is padded moves its numbers by 1e-7, which now and then tips one over to the next level.
    """

    max_tokens: int | None = None
    bucketed = True

    def __init__(self, path: Path, precision: NumericType, *, threads: int = 0) -> None:
        """Compile the graph; ``threads`` 0 means all cores.

        Raises:
            MeasureError: the file is not a graph that this OpenVINO runs, or ``missing``.
        """
        reason = missing()
        if reason is not None:
            raise MeasureError(reason)
        import openvino as ov

        self.name = "openvino"
        self.device = "cpu"
        settings: dict[str, Any] = {
            "PERFORMANCE_HINT": "LATENCY",  # one stream with every core, not one a core
            "INFERENCE_NUM_THREADS": threads or (os.cpu_count() or 1),
        }
        self._multiple = VECTOR if precision in (NumericType.int8, NumericType.bf16) else 1
        core = ov.Core()
        native = "BF16" in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
        if precision is NumericType.bf16 and native:
            settings["INFERENCE_PRECISION_HINT"] = "bf16"
        elif precision is not NumericType.int8:
            settings["INFERENCE_PRECISION_HINT"] = "f32"
        try:
            self._model = core.compile_model(core.read_model(path), "CPU", settings)
        except RuntimeError as error:
            last = str(error).strip().split("\n")[-1]
            raise MeasureError(f"OpenVINO cannot open {path}: {last}") from error
        self._inputs = [value.get_any_name() for value in self._model.inputs]
        self._output = self._model.output(GRAPH_OUTPUT)
        width = self._output.partial_shape[-1]
        self.dimension = width.get_length() if width.is_static else None
        self._requests = threading.local()

    def encode(self, batch: TokenBatch) -> npt.NDArray[np.float32]:
        """Return the embeddings of a batch, float32 ``[batch, dim]``."""
        batch = batch.widened(self._multiple)
        rows = len(batch.input_ids)
        repeated = np.minimum(np.arange(bucket(rows)), rows - 1)
        feed = {name: array[repeated] for name, array in batch.feed(self._inputs).items()}
        request = getattr(self._requests, "own", None)
        if request is None:
            request = self._requests.own = self._model.create_infer_request()
        result: npt.NDArray[np.float32] = request.infer(feed, share_inputs=True)[self._output]
        return result[:rows]
