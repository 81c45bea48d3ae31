"""Time older bundles beside tonight's, round by round, in a process of its own.

``time_beside`` starts ``python -m pipeline.history.judge.rerun``, which reads a job from standard
input and prints what it measured: an engine that crashes ends that process and not the night. All
is opened anew for each repetition, since where two sessions of one file happen to get their memory
makes them differ by 1 to 2 % (``docs/measuring.md``).
"""

import json
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from pipeline.history.judge.slower import Beside
from pipeline.measure.fresh_process import FreshProcessError, run_fresh
from pipeline.measure.speed.intervals import Speedup

_MODULE = "pipeline.history.judge.rerun"
REPETITIONS = 2
BUDGET_S = 40.0
"""Seconds of rounds a repetition and older bundle; a step of 5 % takes 12 rounds or so."""
MIN_ROUNDS, MAX_ROUNDS, NARROW = 12, 60, 0.03
TEXTS, SINGLES, BATCH_SIZE = 64, 16, 32
_OPENING_S = 600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class RerunJob:
    """Bundles by name, tonight's apart; ``engine`` runs in all of them.

    ``latency`` times single sentences in place of batches. ``device`` and ``machine`` are what the
    night measured on.
    """

    bundle: str
    older: Mapping[str, str]
    engine: str
    latency: bool
    device: str | None
    machine: str | None
    cuda: bool
    budget_s: float = BUDGET_S


def time_beside(job: RerunJob) -> list[Beside]:
    """Return how many times as fast tonight's bundle is as each older one, or why not."""
    hidden = {} if job.cuda else {"CUDA_VISIBLE_DEVICES": ""}
    limit = REPETITIONS * len(job.older) * job.budget_s + _OPENING_S
    try:
        done = run_fresh(_MODULE, asdict(job), timeout_s=limit, environment=hidden)
    except FreshProcessError as error:
        return [Beside(name=name, reason=str(error)) for name in job.older]
    return [_read(data) for data in done]


def _read(data: Mapping[str, object]) -> Beside:
    speedups = data["speedups"]
    assert isinstance(speedups, list)
    return Beside(
        name=str(data["name"]),
        speedups=[Speedup(median=s["median"], ci95=tuple(s["ci95"])) for s in speedups],
        reason=None if data["reason"] is None else str(data["reason"]),
    )


def run(job: RerunJob) -> list[Beside]:
    """Do a job in this process."""
    reason = _elsewhere(job)
    return [
        Beside(name=name, reason=reason) if reason else _time(job, name, Path(older))
        for name, older in job.older.items()
    ]


def _elsewhere(job: RerunJob) -> str | None:
    """Return why speeds here say nothing of the machine that the night measured on, or None."""
    from pipeline.flow.environment import describe_environment

    if job.machine is None:
        return None
    here = describe_environment()
    name = here["gpu"]["name"] if job.device == "cuda" and here["gpu"] else here["cpu"]
    if str(name) in job.machine:
        return None
    return f"this machine ({name}) is not the one of the night ({job.machine})"


def _time(job: RerunJob, name: str, older: Path) -> Beside:
    """Time tonight's bundle against one older one, each opened anew every time."""
    try:
        speedups = [_repetition(job, older) for _ in range(REPETITIONS)]
    except Exception as error:  # whatever an older version wrote or its engine makes of it
        words = " ".join(str(error).split())[:200]
        return Beside(name=name, reason=f"{type(error).__name__}: {words}")
    return Beside(name=name, speedups=speedups)


def _repetition(job: RerunJob, older: Path) -> Speedup:
    import numpy as np

    from pipeline.config import DatasetConfig, DatasetFormat
    from pipeline.measure.speed.intervals import compare
    from pipeline.measure.speed.rounds import RoundLimits, encoder_pass, time_rounds
    from pipeline.runtime import load
    from pipeline.text.datasets import load_dataset, spread
    from pipeline.text.tokens import by_length

    new, old = load(job.bundle, engine=job.engine), load(older, engine=job.engine)
    for encoder in (new, old):
        if job.device is not None and encoder.engine.device != job.device:
            raise LookupError(f"runs on {encoder.engine.device}, the night ran on {job.device}")
    dataset = load_dataset(DatasetConfig(name="sample", format=DatasetFormat.sample))
    prefix = new.prompts.get(new.default_prompt, "") if new.default_prompt else ""
    texts = spread(dataset.evaluation, SINGLES if job.latency else TEXTS)
    rows = new.tokenizer.rows(texts, prefix)
    size = 1 if job.latency else BATCH_SIZE
    batches = [new.tokenizer.pad([rows[i] for i in indices]) for indices in by_length(rows, size)]
    for encoder in (new, old):
        if not np.isfinite(encoder.engine.encode(batches[-1])).all():
            raise ValueError("it returns something else than vectors")
    limits = RoundLimits(
        min_rounds=MIN_ROUNDS, max_rounds=MAX_ROUNDS, narrow=NARROW, budget_s=job.budget_s
    )
    times = time_rounds(
        [encoder_pass(old.engine, batches), encoder_pass(new.engine, batches)], limits
    )
    return compare(times[:, 0], times[:, 1])


if __name__ == "__main__":
    print(json.dumps([asdict(one) for one in run(RerunJob(**json.load(sys.stdin)))]))
