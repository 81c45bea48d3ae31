"""Sentence Transformers on PyTorch. Options: ``dtype``."""

from functools import partial

from sentence_transformers import SentenceTransformer

from benchmarks.cpu_speed.peers.worker import BATCH_SIZE, Encode, Job, read_job, run


def load(job: Job) -> Encode:
    """Load the checkpoint in the dtype asked for."""
    model = SentenceTransformer(
        job.model,
        device="cpu",
        local_files_only=True,
        model_kwargs={"torch_dtype": job.options["dtype"]},
    )
    return partial(model.encode, batch_size=BATCH_SIZE)


if __name__ == "__main__":
    run(read_job(), load, ["sentence-transformers", "torch"])
