"""Open an artifact by the name of its runtime."""

from pathlib import Path

from pipeline.engines import Encoder


def open_encoder(name: str, path: Path, *, cuda: bool = False) -> Encoder:
    """Open ``model.onnx`` or a plan; ``cuda`` lets ONNX Runtime use a GPU where there is one.

    Imports the runtime asked for and no other.

    Raises:
        MeasureError: the runtime refuses the file.
    """
    if name == "onnxruntime":
        from pipeline.engines.onnxruntime import OnnxRuntimeEncoder

        return OnnxRuntimeEncoder(path, cuda=cuda)
    from pipeline.engines.tensorrt import TensorRTEncoder

    return TensorRTEncoder(path, name)
