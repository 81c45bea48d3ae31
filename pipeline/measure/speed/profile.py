"""Count the GEMMs that ONNX Runtime really runs in integers, from its own profile.

A Q/DQ pair around a GEMM promises an integer kernel; whether the runtime fuses one is seen only
when it runs (https://onnxruntime.ai/docs/performance/tune-performance/profiling-tools.html).
"""

import json
import tempfile
from collections import Counter
from pathlib import Path

from pipeline.engines.onnxruntime import open_session
from pipeline.text.tokens import TokenBatch

_INTEGER = {
    "DynamicQuantizeMatMul",
    "MatMulInteger",
    "MatMulIntegerToFloat",
    "QAttention",
    "QGemm",
    "QLinearMatMul",
}
_FLOAT = {"Attention", "FusedGemm", "FusedMatMul", "Gemm", "MatMul", "MultiHeadAttention"}


def count_gemms(path: Path, batch: TokenBatch) -> dict[str, int]:
    """Return how many GEMM kernels of one run compute in ``integer`` and how many in ``float``.

    Attention's two batch GEMMs count too; fused into one kernel they count once.

    Raises:
        MeasureError: the file is not a graph that this ONNX Runtime runs.
    """
    with tempfile.TemporaryDirectory() as directory:
        session = open_session(path, profile=Path(directory) / "run")
        session.run(None, batch.feed([value.name for value in session.get_inputs()]))
        events = json.loads(Path(session.end_profiling()).read_text("utf-8"))
    kernels = Counter(
        event["args"]["op_name"]
        for event in events
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time")
    )
    return {
        "integer": sum(kernels[name] for name in _INTEGER),
        "float": sum(kernels[name] for name in _FLOAT),
    }
