"""Open an artifact by the name of its runtime."""

from pathlib import Path

from pipeline.config import NumericType
from pipeline.engines import Encoder


def open_encoder(name: str, path: Path, precision: NumericType, *, cuda: bool = False) -> Encoder:
    """Open ``model.onnx`` or a plan; ``cuda`` lets ONNX Runtime use a GPU where there is one.

    Imports the runtime asked for and no other.

    Raises:
        MeasureError: the runtime refuses the file.
    """
    if name in ("onnxruntime", "onnxruntime_cuda"):
        from pipeline.engines.onnxruntime import OnnxRuntimeEncoder

        encoder = OnnxRuntimeEncoder(path, cuda=cuda)
        encoder.name = name
        return encoder
    if name == "openvino":
        from pipeline.engines.openvino import OpenVINOEncoder

        return OpenVINOEncoder(path, precision)
    from pipeline.engines.tensorrt import TensorRTEncoder

    return TensorRTEncoder(path, name)
