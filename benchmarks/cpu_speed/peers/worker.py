"""A worker: load once, then wait on a pipe for texts to encode. Standard library and numpy only.

An order is a line of JSON, and so is its answer. ``vectors`` encodes a pool of texts once and saves
the result; ``seconds`` times passes over a pool.
"""

import itertools
import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

BATCH_SIZE = 32
"""Texts a batch, for every side."""

FloatArray = npt.NDArray[np.float32]
Encode = Callable[[list[str]], FloatArray]


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What a worker loads and encodes.

    ``model`` is the Sentence Transformer's directory, ``directory`` where this side keeps what it
    makes of it, ``exports`` the directory above, ``pools`` the texts by name.
    """

    model: str
    directory: str
    exports: str
    options: dict[str, Any]
    calibration: list[str]
    pools: dict[str, list[str]]


def made(job: Job, make: Callable[[Path], None], packages: Sequence[str]) -> Path:
    """Return the side's directory, filled by ``make`` unless these very packages did so before."""
    directory = Path(job.directory)
    stamp = directory / "made_with.json"
    wanted = json.dumps([versions(packages), job.options, job.calibration])
    if not stamp.is_file() or stamp.read_text("utf-8") != wanted:
        shutil.rmtree(directory, ignore_errors=True)
        directory.mkdir(parents=True)
        make(directory)
        stamp.write_text(wanted, "utf-8")
    return directory


def versions(packages: Sequence[str]) -> dict[str, str]:
    """Return the installed versions."""
    return {name: metadata.version(name) for name in packages}


def mean_pool(tokens: FloatArray, lengths: Sequence[int]) -> FloatArray:
    """Return normalized means of the first ``lengths`` tokens, ``[batch, dim]``."""
    mask = np.arange(tokens.shape[1])[None, :] < np.asarray(lengths)[:, None]
    summed = np.einsum("bsd,bs->bd", tokens, mask.astype(np.float32))
    unit: FloatArray = summed / np.linalg.norm(summed, axis=1, keepdims=True)
    return unit


def read_job() -> Job:
    """Return the job whose file the command line names."""
    return Job(**json.loads(Path(sys.argv[1]).read_text("utf-8")))


def run(job: Job, load: Callable[[Job], Encode], packages: Sequence[str]) -> None:
    """Load, then carry out orders from standard input until it ends.

    The first answer, sent once loaded, holds the versions of ``packages``.
    """
    with os.fdopen(os.dup(1), "w") as answers:
        os.dup2(2, 1)  # libraries print; the pipe is for answers
        encode = load(job)
        _send(answers, {"versions": versions(packages)})
        for line in sys.stdin:
            _send(answers, carry_out(json.loads(line), job.pools, encode))


def carry_out(
    order: Mapping[str, Any], pools: Mapping[str, list[str]], encode: Encode
) -> dict[str, Any]:
    """Encode what an order says; the clock runs from text to vectors, tokenization included."""
    texts = list(itertools.islice(itertools.cycle(pools[order["pool"]]), order["count"]))
    if order["do"] == "vectors":
        np.save(order["file"], encode(texts))
        return {}
    encode(texts[: order["warm_up"]])
    seconds = []
    for _ in range(order["repeat"]):
        start = time.perf_counter()
        encode(texts)
        seconds.append(time.perf_counter() - start)
    return {"seconds": seconds}


def _send(stream: Any, answer: Mapping[str, Any]) -> None:
    stream.write(json.dumps(answer) + "\n")
    stream.flush()
