"""Run stages or take their outputs from the store; time them, and say when each starts."""

import contextlib
import gc
import logging
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from pipeline.flow.outcome_file import note_stage
from pipeline.flow.store.keys import Parts
from pipeline.flow.store.records import T
from pipeline.flow.store.stage_store import StageStore
from pipeline.report.entries.report import StageTime

log = logging.getLogger(__name__)


class Stages:
    """Runs stages or takes their outputs from the store; times them and says when each starts."""

    def __init__(self, store: StageStore, work: Path, subject: str) -> None:
        """Have stages write below ``work``; compare a changed part with others of ``subject``."""
        self.times: list[StageTime] = []
        self._store = store
        self._work = work
        self._subject = subject

    def run(self, name: str, kind: type[T], parts: Parts, make: Callable[[Path], T]) -> T:
        """Return what ``make`` returns for ``parts``, now or the last time."""
        _started(name)
        start = time.perf_counter()
        with _garbage_freed():
            made, cached = self._store.get_or_make(
                name, kind, parts, self._subject, self._work, make
            )
        self._done(name, start, cached=cached)
        return made

    @contextlib.contextmanager
    def timed(self, name: str) -> Iterator[None]:
        """Time what is done every time."""
        _started(name)
        start = time.perf_counter()
        yield
        self._done(name, start, cached=False)

    def _done(self, name: str, start: float, *, cached: bool) -> None:
        seconds = time.perf_counter() - start
        log.info("%s done in %.1f s", name, seconds)
        self.times.append(StageTime(name=name, seconds=round(seconds, 3), cached=cached))


@contextlib.contextmanager
def _garbage_freed() -> Iterator[None]:
    """Leave no dead model behind: models and graphs refer to themselves, and hold their weights.

    What was there before, all of PyTorch among it, is not looked through.
    """
    gc.freeze()
    try:
        yield
        gc.collect()
    finally:
        gc.unfreeze()


def _started(name: str) -> None:
    note_stage(name)
    log.info("%s …", name)
