"""Turn windows of texts into embeddings: tokenize, compute and read on at the same time.

Threads tokenize windows ahead of the engine (the tokenizers library lets go of Python's lock), as
many threads as the engine has use for run its batches, and whoever asked gets the windows back in
their order. A few windows are in memory, however many there are.
"""

import os
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

from pipeline.engines import Encoder, SideBySide
from pipeline.engines.cores import usable_cores
from pipeline.runtime.windows import Window
from pipeline.text.ragged import Ragged, TokenBatch
from pipeline.text.tokens import Tokenizer, group_lengths
from pipeline.vectors import FloatArray

Advance = Callable[[int], None]

BATCH_TOKENS = 2048
"""Tokens in a batch where neither the caller nor the engine names a number."""

AHEAD = 2
"""Windows in memory beside those that are being tokenized."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Window:
    """A tokenized window, its batches and where their embeddings go."""

    ragged: Ragged
    batches: list[list[int]]
    embeddings: FloatArray


@dataclass(frozen=True, slots=True, kw_only=True)
class Feed:
    """One call's way from windows to embeddings."""

    tokenizer: Tokenizer
    engine: Encoder
    dimension: int
    batch_size: int | None
    tokenize: Callable[[Window], Ragged]
    advance: Advance | None

    def blocks(self, windows: Iterator[Window]) -> Iterator[FloatArray]:
        """Yield each window's embeddings ``[texts, dim]``, in order.

        What goes wrong in a thread is raised here, in the order of the windows. Left early, by an
        error, by Ctrl-C or because nobody asks on, it waits for the batches that are being computed
        and ends its threads.
        """
        first = next(windows)
        if not first.last:
            yield from self._overlapped(first, windows)
            return
        window = self._read(first)
        lanes, compute = self._lanes()
        if lanes > 1 and len(window.batches) >= 2 * lanes:
            with _threads(lanes, "encode") as pool:
                self._finish([self._submit(pool, compute, window, b) for b in window.batches])
        else:
            for batch in window.batches:
                self._report(self._compute(self.engine.encode, window, batch))
        yield window.embeddings

    def _overlapped(self, first: Window, rest: Iterator[Window]) -> Iterator[FloatArray]:
        """Read, tokenize and compute beside each other."""
        lanes, compute = self._lanes()
        readers = tokenizing_threads(self.engine.device)
        waiting: deque[Future[tuple[FloatArray, list[Future[int]]]]] = deque()
        with _threads(lanes, "encode") as pool, _threads(readers, "tokenize") as tokenizing:

            def start(texts: Window) -> tuple[FloatArray, list[Future[int]]]:
                window = self._read(texts)
                return window.embeddings, [
                    self._submit(pool, compute, window, batch) for batch in window.batches
                ]

            waiting.append(tokenizing.submit(start, first))
            more = True
            while waiting:
                while more and len(waiting) < readers + AHEAD:
                    texts = next(rest)
                    more = not texts.last
                    waiting.append(tokenizing.submit(start, texts))
                embeddings, batches = waiting.popleft().result()
                self._finish(batches)
                yield embeddings

    def _read(self, texts: Window) -> _Window:
        ragged = self.tokenize(texts)
        most = self.engine.max_tokens
        if self.batch_size is None and most is None:
            most = BATCH_TOKENS
        return _Window(
            ragged=ragged,
            batches=group_lengths(ragged.lengths, self.batch_size, most),
            embeddings=np.empty((len(ragged.lengths), self.dimension), np.float32),
        )

    def _lanes(self) -> tuple[int, Callable[[TokenBatch], FloatArray]]:
        if isinstance(self.engine, SideBySide):
            return self.engine.lanes, self.engine.encode_beside
        return 1, self.engine.encode

    def _submit(
        self,
        pool: ThreadPoolExecutor,
        compute: Callable[[TokenBatch], FloatArray],
        window: _Window,
        batch: list[int],
    ) -> Future[int]:
        return pool.submit(self._compute, compute, window, batch)

    def _compute(
        self, compute: Callable[[TokenBatch], FloatArray], window: _Window, batch: list[int]
    ) -> int:
        padded = self.tokenizer.pad_some(window.ragged, batch, bucketed=self.engine.bucketed)
        window.embeddings[batch] = compute(padded)
        return len(batch)

    def _finish(self, batches: list[Future[int]]) -> None:
        for done in batches:
            self._report(done.result())

    def _report(self, texts: int) -> None:
        if self.advance is not None:
            self.advance(texts)


@contextmanager
def _threads(count: int, name: str) -> Iterator[ThreadPoolExecutor]:
    """Give threads that end with the block: what runs is waited for, what waits is dropped."""
    pool = ThreadPoolExecutor(count, thread_name_prefix=name)
    try:
        yield pool
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def tokenizing_threads(device: str) -> int:
    """Return how many threads tokenize beside an engine on this device.

    Two keep a CPU's cores busy: while one is in Python, the tokenizers library computes for the
    other, on every core by itself. A GPU is faster than that: four, or, where
    TOKENIZERS_PARALLELISM is false and no thread gets in another's way, one a core up to eight
    (docs/gpu.md).
    """
    if device == "cpu":
        return 2
    alone = os.environ.get("TOKENIZERS_PARALLELISM", "").lower() in ("off", "false", "f", "no", "0")
    return min(8, usable_cores()) if alone else 4
