"""Sentence Transformers on OpenVINO. Options: ``form``: ``fp32``, ``int8``."""

from functools import partial
from pathlib import Path
from typing import Any

from sentence_transformers import SentenceTransformer

from benchmarks.cpu_speed.peers.worker import BATCH_SIZE, Encode, Job, made, read_job, run
from benchmarks.int8_quality.peers import openvino_static
from benchmarks.int8_quality.peers.job import Job as QuantizeJob

PACKAGES = ["sentence-transformers", "optimum-intel", "openvino", "nncf"]


def load(job: Job) -> Encode:
    """Export with the library's own functions, unless that was done before, and load the file."""
    export, file_name = {
        "fp32": (_export, "openvino_model.xml"),
        "int8": (_export_int8, "openvino_model_qint8_quantized.xml"),
    }[job.options["form"]]
    directory = made(job, lambda directory: export(job, directory), PACKAGES)
    model = _open(str(directory / "model"), file_name=f"openvino/{file_name}")
    return partial(model.encode, batch_size=BATCH_SIZE)


def _export(job: Job, directory: Path) -> None:
    _open(job.model, export=True).save_pretrained(str(directory / "model"))


def _export_int8(job: Job, directory: Path) -> None:
    """Quantize as the row of the quality benchmark does, so that its table holds for this one."""
    openvino_static.quantize(
        QuantizeJob(
            model=job.model,
            fp32="",
            out=str(directory),
            options={"padded": True},
            calibration=job.calibration,
            calibration_ids=[],
            evaluation=[],
        )
    )


def _open(directory: str, **kwargs: Any) -> Any:
    return SentenceTransformer(
        directory, backend="openvino", device="cpu", local_files_only=True, model_kwargs=kwargs
    )


if __name__ == "__main__":
    run(read_job(), load, PACKAGES)
