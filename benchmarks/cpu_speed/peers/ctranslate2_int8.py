"""CTranslate2 in int8. No options.

It takes tokens and gives token embeddings: text is tokenized, sorted by length and pooled here.
"""

from pathlib import Path

import ctranslate2
import numpy as np
from ctranslate2.converters import TransformersConverter
from tokenizers import Tokenizer

from benchmarks.cpu_speed.peers.worker import (
    BATCH_SIZE,
    Encode,
    FloatArray,
    Job,
    made,
    mean_pool,
    read_job,
    run,
)

PACKAGES = ["ctranslate2", "tokenizers"]
MAX_LENGTH = 256
DIMENSION = 384


def load(job: Job) -> Encode:
    """Convert the checkpoint, unless that was done before, and load it."""

    def make(directory: Path) -> None:
        converter = TransformersConverter(job.model)
        converter.convert(str(directory / "model"), quantization="int8")

    directory = made(job, make, PACKAGES)
    model = ctranslate2.Encoder(str(directory / "model"), device="cpu", compute_type="int8")
    tokenizer = Tokenizer.from_file(str(Path(job.model) / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.enable_truncation(MAX_LENGTH)

    def encode(texts: list[str]) -> FloatArray:
        rows = [encoding.ids for encoding in tokenizer.encode_batch(texts)]
        order = sorted(range(len(rows)), key=lambda i: -len(rows[i]))
        vectors = np.empty((len(rows), DIMENSION), dtype=np.float32)
        for start in range(0, len(order), BATCH_SIZE):
            batch = order[start : start + BATCH_SIZE]
            hidden = model.forward_batch([rows[i] for i in batch]).last_hidden_state
            vectors[batch] = mean_pool(np.array(hidden), [len(rows[i]) for i in batch])
        return vectors

    return encode


if __name__ == "__main__":
    run(read_job(), load, PACKAGES)
