"""Sentence Transformers on ONNX Runtime. Options: ``form``: ``fp32``, ``O3``, ``int8``."""

from functools import partial
from pathlib import Path
from typing import Any

from sentence_transformers import SentenceTransformer
from sentence_transformers.backend import (
    export_dynamic_quantized_onnx_model,
    export_optimized_onnx_model,
)

from benchmarks.cpu_speed.peers.worker import BATCH_SIZE, Encode, Job, made, read_job, run

PACKAGES = ["sentence-transformers", "optimum-onnx", "onnxruntime-gpu"]


def load(job: Job) -> Encode:
    """Export with the library's own functions, unless that was done before, and load the file."""

    def make(directory: Path) -> None:
        model = _open(job.model, export=True)
        model.save_pretrained(str(directory))
        if job.options["form"] == "O3":
            export_optimized_onnx_model(model, "O3", str(directory))
        if job.options["form"] == "int8":
            export_dynamic_quantized_onnx_model(model, "avx512_vnni", str(directory))

    names = {"fp32": "model", "O3": "model_O3", "int8": "model_qint8_avx512_vnni"}
    file_name = f"onnx/{names[job.options['form']]}.onnx"
    model = _open(str(made(job, make, PACKAGES)), file_name=file_name)
    return partial(model.encode, batch_size=BATCH_SIZE)


def _open(directory: str, **kwargs: Any) -> Any:
    return SentenceTransformer(
        directory,
        backend="onnx",
        device="cpu",
        local_files_only=True,
        model_kwargs={"provider": "CPUExecutionProvider", **kwargs},
    )


if __name__ == "__main__":
    run(read_job(), load, PACKAGES)
