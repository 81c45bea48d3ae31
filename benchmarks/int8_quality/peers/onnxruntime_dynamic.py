"""Dynamic int8 as Sentence Transformers exports it for ONNX Runtime. Options: ``config``."""

from pathlib import Path

from sentence_transformers import SentenceTransformer
from sentence_transformers.backend import export_dynamic_quantized_onnx_model

from benchmarks.int8_quality.peers.job import Job, run


def quantize(job: Job) -> Path:
    """Export with the library's own function, which needs no calibration text."""
    model = SentenceTransformer(
        job.model,
        backend="onnx",
        device="cpu",
        local_files_only=True,
        model_kwargs={"export": True},
    )
    export_dynamic_quantized_onnx_model(model, job.options["config"], job.out)
    return next((Path(job.out) / "onnx").glob("*.onnx"))


if __name__ == "__main__":
    run(quantize, ["sentence-transformers", "optimum-onnx", "onnxruntime-gpu"])
