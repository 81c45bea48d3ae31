"""This project's runtime on a published bundle. Options: ``bundle``, ``engine``."""

from functools import partial

from benchmarks.cpu_speed.peers.worker import BATCH_SIZE, Encode, Job, read_job, run
from pipeline.runtime import load as load_bundle

ENGINE_PACKAGE = {"onnxruntime": "onnxruntime-gpu", "openvino": "openvino"}


def load(job: Job) -> Encode:
    """Load the bundle with the engine asked for."""
    encoder = load_bundle(job.options["bundle"], engine=job.options["engine"])
    return partial(encoder.encode, batch_size=BATCH_SIZE)


if __name__ == "__main__":
    job = read_job()
    run(job, load, ["sentence-transformer-trt", ENGINE_PACKAGE[job.options["engine"]]])
