"""EmbedAnything on the checkpoint (its Candle backend). No options.

It takes models by hub id only, so the directory is shown to it as an entry of the hub's cache.
"""

import os
from pathlib import Path

import embed_anything
import numpy as np

from benchmarks.cpu_speed.peers.worker import (
    BATCH_SIZE,
    Encode,
    FloatArray,
    Job,
    made,
    read_job,
    run,
)

PACKAGES = ["embed_anything"]


def load(job: Job) -> Encode:
    """Load the checkpoint; pooling is the library's default for it, the mean."""
    os.environ["HF_HOME"] = str(made(job, lambda home: _fake_hub(home, Path(job.model)), PACKAGES))
    model = embed_anything.EmbeddingModel.from_pretrained_hf("local/model")
    config = embed_anything.TextEmbedConfig(batch_size=BATCH_SIZE)

    def encode(texts: list[str]) -> FloatArray:
        embedded = embed_anything.embed_query(texts, embedder=model, config=config)
        return np.array([one.embedding for one in embedded], dtype=np.float32)

    return encode


def _fake_hub(home: Path, model: Path) -> None:
    repository = home / "hub" / "models--local--model"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("0", "utf-8")
    (repository / "snapshots").mkdir()
    (repository / "snapshots" / "0").symlink_to(model, target_is_directory=True)


if __name__ == "__main__":
    run(read_job(), load, PACKAGES)
