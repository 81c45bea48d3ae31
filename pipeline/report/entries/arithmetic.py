"""Say where an artifact's numbers are of a graph's arithmetic only, computed some other way."""

from pipeline.config import NumericType

_EMULATED = {
    NumericType.bf16: "fp32, each node's output rounded to bf16",
    NumericType.fp8: "fp32, what GEMMs read rounded to E4M3",
}


def emulation(kind: NumericType, runtime: str) -> str | None:
    """Return how ONNX Runtime computes a precision that it has no kernels for, or None.

    Agreement and task scores are then of the graph's arithmetic, on whatever device; speed is that
    of the emulation and says nothing of an engine.
    """
    return _EMULATED.get(kind) if runtime == "onnxruntime" else None
