"""fastembed on a local ONNX file. Options: ``bundle``; without one, the plain fp32 export.

The plain export is the one of the side ``onnx_fp32``.
"""

from pathlib import Path

import numpy as np
from fastembed import TextEmbedding
from fastembed.common.model_description import ModelSource, PoolingType

from benchmarks.cpu_speed.peers.worker import BATCH_SIZE, Encode, FloatArray, Job, read_job, run


def load(job: Job) -> Encode:
    """Register the file as a custom model; a bundle's graph has the pooling inside."""
    bundle = job.options["bundle"]
    TextEmbedding.add_custom_model(
        model="local",
        pooling=PoolingType.MEAN if bundle is None else PoolingType.DISABLED,
        normalization=bundle is None,
        sources=ModelSource(hf="local"),
        dim=384,
        model_file="onnx/model.onnx" if bundle is None else "model.onnx",
    )
    directory = bundle or str(Path(job.exports) / "onnx_fp32")
    model = TextEmbedding("local", specific_model_path=directory)

    def encode(texts: list[str]) -> FloatArray:
        return np.stack(list(model.embed(texts, batch_size=BATCH_SIZE)))

    return encode


if __name__ == "__main__":
    run(read_job(), load, ["fastembed", "onnxruntime"])
