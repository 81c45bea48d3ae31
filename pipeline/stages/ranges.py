"""Measure between which values each dimension of the model's vectors lies."""

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from pipeline.config import Device
from pipeline.contracts import EmbeddingRanges, SourceModel, sha256_file
from pipeline.engines.torch import TorchEncoder
from pipeline.errors import MeasureError
from pipeline.text.datasets import spread

log = logging.getLogger(__name__)

TEXTS = 2048
"""So many calibration texts at most: what they leave open, more of them hardly close."""

_BATCH_SIZE = 32


def measure_ranges(source: SourceModel, texts: Sequence[str], out_dir: Path) -> EmbeddingRanges:
    """Return the smallest and largest value of each dimension over ``texts``, by PyTorch fp32.

    They bound the steps of int8 vectors, whichever precision the model itself runs in.

    Raises:
        MeasureError: no text, or a vector of PyTorch's is not finite.
    """
    if not texts:
        raise MeasureError(f"{source.name}: no calibration text to take the vectors' ranges from")
    chosen = spread(texts, TEXTS)
    vectors = TorchEncoder(source, device=Device.auto).encode_texts(chosen, _BATCH_SIZE)
    bad = np.flatnonzero(~np.isfinite(vectors).all(axis=1))
    if len(bad):
        raise MeasureError(
            f"PyTorch gives NaN or infinity for {len(bad)} of {len(chosen)} calibration texts, "
            f"first {chosen[bad[0]][:80]!r}: the checkpoint itself is broken; check its weights"
        )
    norms = np.linalg.norm(vectors.astype(np.float64), axis=1)
    out_dir.mkdir(parents=True)
    path = out_dir / "embedding_ranges.npy"
    ranges = np.stack((vectors.min(axis=0), vectors.max(axis=0)))
    np.save(path, ranges.astype("<f4"), allow_pickle=False)
    log.info("ranges of %d dimensions from %d texts", ranges.shape[1], len(chosen))
    return EmbeddingRanges(
        path=path,
        sha256=sha256_file(path),
        texts=len(chosen),
        norm_min=float(norms.min()),
        norm_max=float(norms.max()),
        source_sha256=source.sha256,
    )
