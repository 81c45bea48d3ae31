"""Measure what a process pays before its first vector: seconds to load, memory at its peak.

``measure_cold`` starts a process for one encoder: ``python -m pipeline.measure.speed.cold``, which
reads a job from standard input and prints what it measured. It imports the runtime it measures and
nothing else, so that the numbers are the runtime's own.
"""

import json
import logging
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from pipeline.config import NumericType
from pipeline.engines.gpu import gpu_memory_used
from pipeline.measure.fresh_process import FreshProcessError, run_fresh

log = logging.getLogger(__name__)

REFERENCE = "torch"
_MODULE = "pipeline.measure.speed.cold"


@dataclass(frozen=True, slots=True, kw_only=True)
class ColdJob:
    """What to load: ``engine`` is the runtime's name, or ``torch`` for the Sentence Transformer."""

    engine: str
    path: str
    precision: str
    assets: str
    max_length: int
    dimension: int
    cuda: bool
    trust_remote_code: bool
    texts: Sequence[str]
    batch_size: int
    prompt: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cold:
    """``load_s`` runs from the start of the process until the encoder takes text.

    ``first_encode_ms`` is its first text. Memory is the process's peak (resident set), and what the
    whole GPU held more than before, after all texts of the job.
    """

    load_s: float
    first_encode_ms: float
    peak_memory_bytes: int
    gpu_memory_bytes: int | None


def measure_cold(job: ColdJob, *, timeout_s: float) -> Cold | None:
    """Return what the job costs a fresh process, or None (and a line in the log) where it fails."""
    before = {"gpu_memory_before": gpu_memory_used(), "started": time.monotonic()}
    try:
        measured = run_fresh(_MODULE, asdict(job) | before, timeout_s=timeout_s, environment={})
    except FreshProcessError as error:
        log.warning("%s: no cold start: %s", job.engine, error)
        return None
    return Cold(**measured)


def _run(job: ColdJob, started: float, gpu_memory_before: int | None) -> Cold:
    encode = _open(job)
    loaded = time.monotonic()
    encode(job.texts[:1])
    first = time.monotonic()
    encode(job.texts)
    gpu_memory = gpu_memory_used()
    return Cold(
        load_s=loaded - started,
        first_encode_ms=(first - loaded) * 1e3,
        peak_memory_bytes=_peak_memory(),
        gpu_memory_bytes=None
        if gpu_memory_before is None or gpu_memory is None
        else max(0, gpu_memory - gpu_memory_before),
    )


def _open(job: ColdJob) -> Callable[[Sequence[str]], object]:
    """Return the function from texts to vectors that a user of this artifact would call."""
    if job.engine == REFERENCE:
        from pipeline.engines.torch import load_sentence_transformer

        model = load_sentence_transformer(
            Path(job.path),
            device="cuda" if job.cuda else "cpu",
            trust_remote_code=job.trust_remote_code,
        )
        return lambda texts: model.encode(
            list(texts), batch_size=job.batch_size, prompt=job.prompt, show_progress_bar=False
        )
    from pipeline.engines.opening import open_encoder
    from pipeline.runtime.encoder import TextEncoder
    from pipeline.text.tokens import Tokenizer

    encoder = TextEncoder(
        Tokenizer(Path(job.assets), max_length=job.max_length),
        open_encoder(job.engine, Path(job.path), NumericType(job.precision), cuda=job.cuda),
        dimension=job.dimension,
        prompts={},
        default_prompt=None,
    )
    return lambda texts: encoder.encode(texts, job.batch_size, prompt=job.prompt)


def _peak_memory() -> int:
    """Return this process's largest resident set in bytes.

    ``getrusage`` would count the parent's at the moment of the fork; ``VmHWM`` starts anew with
    exec (https://man7.org/linux/man-pages/man5/proc_pid_status.5.html).
    """
    for line in Path("/proc/self/status").read_text("utf-8").splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise OSError("/proc/self/status has no VmHWM")


if __name__ == "__main__":
    message = json.load(sys.stdin)
    begun, used = message.pop("started"), message.pop("gpu_memory_before")
    print(json.dumps(asdict(_run(ColdJob(**message), begun, used))))
