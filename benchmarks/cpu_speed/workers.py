"""Worker processes from the coordinator's side: start one, give it an order, end it."""

import json
import os
import signal
import subprocess
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from benchmarks.cpu_speed.sides import Side
from benchmarks.int8_quality.environments import last_line

ROOT = Path(__file__).parents[2]

_THREAD_LIMITS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "RAYON_NUM_THREADS")
_PATIENCE_S = 30


class SideError(Exception):
    """A side that could not be loaded or stopped working; the message goes into the table."""


class Worker:
    """A side in a process of its own, loaded; a context manager that ends it.

    Between orders ``process`` is stopped: thread pools that spin while they wait for work would
    otherwise take time from the side that is measured.
    """

    def __init__(self, side: Side, python: Path, job: Path, log: Path) -> None:
        """Start it and wait until it has loaded; each library uses the threads it does by itself.

        Raises:
            SideError: it ended instead; the message is the last line of its log.
        """
        self.side = side
        self._log = log
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("w") as stream:
            self.process = subprocess.Popen(
                [str(python), "-m", f"benchmarks.cpu_speed.peers.{side.peer}", str(job)],
                cwd=job.parent,
                env=_environment(),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stream,
                text=True,
            )
        try:
            self.versions: dict[str, str] = self._answer()["versions"]
        except BaseException:
            self.close()
            raise

    def save_vectors(self, pool: str, count: int, file: Path) -> None:
        """Encode the first ``count`` texts of a pool and save the vectors, ``[count, dim]``."""
        self._ask({"do": "vectors", "pool": pool, "count": count, "file": str(file)})

    def seconds(self, pool: str, count: int, *, warm_up: int, repeat: int = 1) -> list[float]:
        """Time passes over the first ``count`` texts, after an untimed one over ``warm_up``."""
        order = {"do": "seconds", "pool": pool, "count": count, "warm_up": warm_up}
        seconds: list[float] = self._ask(order | {"repeat": repeat})["seconds"]
        return seconds

    def close(self) -> None:
        """End the process."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.send_signal(signal.SIGCONT)
        self.process.stdout.close()
        try:
            self.process.stdin.close()
            self.process.wait(_PATIENCE_S)
        except (BrokenPipeError, subprocess.TimeoutExpired):
            self.process.kill()
            self.process.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _ask(self, order: Mapping[str, Any]) -> dict[str, Any]:
        assert self.process.stdin is not None
        self.process.send_signal(signal.SIGCONT)
        try:
            self.process.stdin.write(json.dumps(order) + "\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            pass  # it has ended; its log says why
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            self.process.wait()  # the pipe closes before the last words are written
            raise SideError(last_line(self._log.read_text("utf-8", errors="replace")))
        self.process.send_signal(signal.SIGSTOP)
        answer: dict[str, Any] = json.loads(line)
        return answer


def _environment() -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name not in _THREAD_LIMITS}
    return kept | {"HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": str(ROOT)}
