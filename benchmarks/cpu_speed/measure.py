"""One run from start to end: load every side, check its vectors, time all of them."""

import json
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.cpu_speed.checks import compare, refuse_slow
from benchmarks.cpu_speed.peers.worker import BATCH_SIZE, FloatArray
from benchmarks.cpu_speed.rounds import Pass, Times, ratio, run_rounds, texts_for
from benchmarks.cpu_speed.sides import REFERENCE, Side
from benchmarks.cpu_speed.texts import TOKENS
from benchmarks.cpu_speed.workers import SideError, Worker
from benchmarks.int8_quality.environments import python_of

log = logging.getLogger(__name__)

SHAPES = ("natural", "fixed", "single")
COMPARED = 512
"""Texts whose vectors are compared with the reference's."""

SINGLES = 20
"""Passes over the one sentence, a round."""

_PILOT = 2 * BATCH_SIZE
_WARM_UP = 2 * BATCH_SIZE


@dataclass(frozen=True, slots=True, kw_only=True)
class Setup:
    """What all sides share: the model's directory, texts, where files go, and how long to time.

    A pass over the texts of a shape lasts ``least_s`` or more on the fastest side.
    """

    model: Path
    pools: Mapping[str, list[str]]
    calibration: Sequence[str]
    cache: Path
    rounds: int
    least_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class _Loaded:
    """A side that gives the model's vectors; ``pilot_s`` are seconds of a short pass by shape."""

    worker: Worker
    cosine: Mapping[str, float]
    pilot_s: Mapping[str, float]


def measure(sides: Sequence[Side], known: Sequence[Side], setup: Setup) -> dict[str, Any]:
    """Time ``sides`` side by side; ``known`` has those whose exports they load as well.

    Returns:
        The conditions, and one result a side: either its figures, or ``failed`` with the reason.

    Raises:
        SideError: the reference cannot be loaded or fails.
    """
    load_before = os.getloadavg()[0]
    failures: dict[str, str] = {}

    def fail(name: str, error: SideError) -> None:
        log.warning("%s: %s", name, error)
        failures[name] = str(error)
        if name == REFERENCE:
            raise error

    _export_for(sides, known, setup)
    with ExitStack() as stack:
        loaded = _load(stack, sides, setup, fail)
        counts = _counts([one.pilot_s for one in loaded.values()], setup.least_s)
        log.info("%s texts a pass, %d rounds", counts, setup.rounds)
        passes = {name: _pass(one.worker, counts) for name, one in loaded.items()}
        times = run_rounds(passes, SHAPES, setup.rounds, failed=fail)
    return {
        "rounds": setup.rounds,
        "load_before": load_before,
        "counts": counts,
        "batch_size": BATCH_SIZE,
        "singles": SINGLES,
        "compared": min(COMPARED, len(setup.pools["natural"])),
        "sides": [
            {"name": side.name, "title": side.title, "setting": side.setting}
            | (
                {"failed": failures[side.name]}
                if side.name in failures
                else {
                    "versions": loaded[side.name].worker.versions,
                    "cosine": loaded[side.name].cosine,
                    **figures(times, side.name, counts),
                }
            )
            for side in sides
        ],
    }


def figures(times: Times, name: str, counts: Mapping[str, int]) -> dict[str, Any]:
    """Return a side's ratios to the reference, its texts and tokens per second, its latency."""
    own = {shape: [float(np.median(passes)) for passes in times[name][shape]] for shape in SHAPES}
    of_reference = {
        shape: [float(np.median(passes)) for passes in times[REFERENCE][shape]] for shape in SHAPES
    }
    per_second = {shape: counts[shape] / float(np.median(own[shape])) for shape in SHAPES}
    return {
        "ratio": {shape: asdict(ratio(of_reference[shape], own[shape])) for shape in SHAPES},
        "sentences_per_second": per_second["natural"],
        "tokens_per_second": TOKENS * per_second["fixed"],
        "single_ms": 1e3 * float(np.median(np.concatenate(times[name]["single"]))),
        "seconds": times[name],
    }


def _load(
    stack: ExitStack,
    sides: Sequence[Side],
    setup: Setup,
    fail: Callable[[str, SideError], None],
) -> dict[str, _Loaded]:
    """Start every side and check its vectors; ``stack`` ends the workers."""
    loaded: dict[str, _Loaded] = {}
    reference: dict[str, FloatArray] | None = None
    for side in sides:
        try:
            worker = stack.enter_context(_start(side, setup))
            pilot_s = _pilot(worker)
            if loaded:
                refuse_slow(loaded[REFERENCE].pilot_s, pilot_s)
            vectors = _vectors(worker, setup)
            reference = reference or vectors
            cosine = compare(reference, vectors)
            loaded[side.name] = _Loaded(worker=worker, cosine=cosine, pilot_s=pilot_s)
            log.info("%s: mean cosine %.5f", side.name, cosine["mean"])
        except SideError as error:
            fail(side.name, error)
    return loaded


def _export_for(sides: Sequence[Side], known: Sequence[Side], setup: Setup) -> None:
    """Have the exports made that sides load but that no side of this run makes."""
    names = {side.name for side in sides}
    for name in {side.after for side in sides} - names:
        for side in known:
            if side.name == name:
                with suppress(SideError):  # the side that needs it says what is missing
                    _start(side, setup).close()


def _start(side: Side, setup: Setup) -> Worker:
    log.info("%s …", side.name)
    try:
        python = python_of(side.requirements, setup.cache / "environments")
    except RuntimeError as error:
        raise SideError(str(error)) from error
    exports = setup.cache / "exports"
    exports.mkdir(parents=True, exist_ok=True)
    job = {
        "model": str(setup.model),
        "directory": str(exports / side.name),
        "exports": str(exports),
        "options": side.options,
        "calibration": list(setup.calibration),
        "pools": dict(setup.pools),
    }
    file = exports / f"{side.name}.json"
    file.write_text(json.dumps(job), "utf-8")
    return Worker(side, python, file, setup.cache / "logs" / f"{side.name}.log")


def _vectors(worker: Worker, setup: Setup) -> dict[str, FloatArray]:
    """Return the vectors that ``compare`` takes."""
    directory = setup.cache / "vectors" / worker.side.name
    directory.mkdir(parents=True, exist_ok=True)
    counts = {"natural": min(COMPARED, len(setup.pools["natural"])), "probe": 2}
    vectors = {}
    for pool, count in counts.items():
        file = directory / f"{pool}.npy"
        worker.save_vectors(pool, count, file)
        vectors[pool] = np.load(file)
    return vectors


def _pilot(worker: Worker) -> dict[str, float]:
    """Return the seconds of a short pass in each shape that has passes of many texts."""
    return {
        shape: min(worker.seconds(shape, _PILOT, warm_up=_PILOT, repeat=2))
        for shape in ("natural", "fixed")
    }


def _counts(pilots: Sequence[Mapping[str, float]], least_s: float) -> dict[str, int]:
    """Return how many texts a pass takes in each shape."""
    return {"single": 1} | {
        shape: texts_for([pilot[shape] for pilot in pilots], _PILOT, least_s, BATCH_SIZE)
        for shape in ("natural", "fixed")
    }


def _pass(worker: Worker, counts: Mapping[str, int]) -> Pass:
    def run(shape: str) -> list[float]:
        repeat = SINGLES if shape == "single" else 1
        return worker.seconds(shape, counts[shape], warm_up=_WARM_UP, repeat=repeat)

    return run
