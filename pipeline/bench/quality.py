"""What an artifact's vectors are worth: agreement with the reference, tasks, sanity."""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipeline.bench.agreement import Agreement, agreement
from pipeline.bench.profile import count_gemms
from pipeline.bench.tasks import score, task_metric
from pipeline.bench.timing import Artifact
from pipeline.contracts import TaskScores
from pipeline.datasets import Task
from pipeline.errors import MeasureError
from pipeline.progress import track
from pipeline.runtime import TextEncoder
from pipeline.tokens import TokenBatch

log = logging.getLogger(__name__)

FloatArray = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True)
class Expected:
    """The text to compare on and what the reference makes of it."""

    texts: Sequence[str]
    embeddings: FloatArray
    tasks: Sequence[Task]
    task_scores: Mapping[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Quality:
    """One artifact's figures.

    ``finite`` and ``nonzero`` are the shares of vectors without NaN and infinity, and that are not
    zero where the reference's are not.
    """

    agreement: Agreement
    tasks: Mapping[str, TaskScores]
    finite: float
    nonzero: float
    gemms: Mapping[str, int] | None


def measure_quality(
    artifact: Artifact, expected: Expected, profiled: TokenBatch, batch_size: int
) -> Quality:
    """Encode the text with an artifact and compare; ``profiled`` is the batch to count kernels on.

    Raises:
        MeasureError: it returns NaN or infinity.
    """
    name = artifact.name
    encode = cached(artifact.text, batch_size)
    embeddings = encode(expected.texts)
    finite = np.isfinite(embeddings).all(axis=1)
    if not finite.all():
        raise MeasureError(
            f"{name} returns NaN or infinite embeddings for {int((~finite).sum())} of "
            f"{len(embeddings)} sentences: something overflows; use precision=fp32"
        )
    close = agreement(expected.embeddings, embeddings)
    log.info("%s: mean cosine %.6f, lowest %.6f, n %d", name, close.mean, close.min, close.n)
    lost = expected.embeddings.any(axis=1) & ~embeddings.any(axis=1)
    return Quality(
        agreement=close,
        tasks={
            task.name: TaskScores(
                metric=task_metric(task),
                reference=expected.task_scores[task.name],
                artifact=score(task, encode),
            )
            for task in expected.tasks
        },
        finite=float(finite.mean()),
        nonzero=float(1 - lost.mean()),
        gemms=_count_gemms(artifact, profiled),
    )


def _count_gemms(artifact: Artifact, batch: TokenBatch) -> dict[str, int] | None:
    """Count kernels where the profile is of what was measured: ONNX Runtime on the CPU."""
    profiled = artifact.name == "onnxruntime" and artifact.text.engine.device == "cpu"
    return count_gemms(artifact.path, batch) if profiled else None


def cached(encoder: TextEncoder, batch_size: int) -> Callable[[Sequence[str]], FloatArray]:
    """Return an encode function that computes each text once, with progress."""
    known: dict[str, FloatArray] = {}

    def encode(texts: Sequence[str]) -> FloatArray:
        new = [text for text in dict.fromkeys(texts) if text not in known]
        new.sort(key=len, reverse=True)
        chunks = [new[i : i + 4 * batch_size] for i in range(0, len(new), 4 * batch_size)]
        for chunk in track(chunks, f"encode ({encoder.engine.name})", total=len(chunks)):
            known.update(zip(chunk, encoder.encode(chunk, batch_size), strict=True))
        return np.stack([known[text] for text in texts])

    return encode
