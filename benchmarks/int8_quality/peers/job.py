"""What a peer's script is given and what it leaves behind."""

import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Feed = dict[str, npt.NDArray[np.int64]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One row's work.

    ``model`` is the Sentence Transformer's directory, ``fp32`` its ONNX graph with pooling inside,
    ``calibration_ids`` the calibration texts as token ids with special tokens, unpadded.
    ``evaluation`` is there for runtimes that embed by themselves.
    """

    model: str
    fp32: str
    out: str
    options: dict[str, Any]
    calibration: list[str]
    calibration_ids: list[list[int]]
    evaluation: list[str]


class Reader:
    """Calibration feeds for ONNX Runtime's calibrators, from the first again after ``rewind``."""

    def __init__(self, feeds: Sequence[Feed]) -> None:
        """Keep the feeds."""
        self._feeds = list(feeds)
        self.rewind()

    def get_next(self) -> Feed | None:
        """Return the next feed, None after the last."""
        return next(self._left, None)

    def get_first(self) -> Feed:
        """Return the first feed and stay where it is."""
        return self._feeds[0]

    def rewind(self) -> None:
        """Start over."""
        self._left: Iterator[Feed] = iter(self._feeds)


def unpadded_feeds(rows: Sequence[Sequence[int]], names: Sequence[str]) -> list[Feed]:
    """Return one feed for each length that occurs, ``[rows of that length, length]`` each."""
    lengths: dict[int, list[Sequence[int]]] = {}
    for row in rows:
        lengths.setdefault(len(row), []).append(row)
    return [_feed(group, names) for _, group in sorted(lengths.items())]


def linear_gemms(graph: Any) -> list[str]:
    """Return the names of an ONNX graph's MatMuls with a constant weight."""
    constants = {tensor.name for tensor in graph.initializer}
    return [n.name for n in graph.node if n.op_type == "MatMul" and n.input[1] in constants]


def _feed(rows: Sequence[Sequence[int]], names: Sequence[str]) -> Feed:
    ids = np.array(rows, dtype=np.int64)
    values = {"input_ids": ids, "attention_mask": np.ones_like(ids)}
    return {name: values.get(name, np.zeros_like(ids)) for name in names}


def run(
    work: Callable[[Job], Path],
    packages: Sequence[str],
    embed: Callable[[Job, Path], npt.NDArray[np.float32]] | None = None,
) -> None:
    """Do the job named on the command line and write ``done.json`` beside what it made.

    ``work`` returns the quantized graph; its time, imports left out, is what the row reports.
    ``embed`` is for graphs that are not ONNX.
    """
    job = Job(**json.loads(Path(sys.argv[1]).read_text("utf-8")))
    start = time.perf_counter()
    path = work(job)
    done = {
        "file": str(path),
        "seconds": time.perf_counter() - start,
        "versions": {name: metadata.version(name) for name in packages},
    }
    if embed is not None:
        np.save(Path(job.out) / "embeddings.npy", embed(job, path))
    (Path(job.out) / "done.json").write_text(json.dumps(done), "utf-8")
