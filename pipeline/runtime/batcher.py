"""Texts that threads send one by one, computed together.

    with Batcher(load("artifacts/minilm/fp16"), wait_ms=2) as batcher:
        batcher.encode("a sentence")        # from any number of threads

Each thread tokenizes its own text; one thread takes what has come in and runs it.
"""

import os
import queue
import threading
import time
from concurrent.futures import Future
from dataclasses import dataclass, field
from types import TracebackType

from pipeline.runtime.encoder import TextEncoder
from pipeline.runtime.feed import BATCH_TOKENS
from pipeline.text.ragged import Ragged, join
from pipeline.text.tokens import group_lengths
from pipeline.vectors import FloatArray


@dataclass(frozen=True, slots=True)
class _Request:
    tokens: Ragged
    """Of one text."""
    vector: "Future[FloatArray]" = field(default_factory=Future)


class Batcher:
    """Dynamic batching in front of an encoder.

    The first text to come waits for others ``wait_ms`` at most, and for no more than ``max_tokens``
    tokens; what comes while a batch is computed goes into the next. ``max_tokens`` None is what the
    engine takes at once.
    """

    def __init__(
        self, encoder: TextEncoder, *, wait_ms: float = 2.0, max_tokens: int | None = None
    ) -> None:
        """Start the thread.

        Raises:
            ValueError: a negative wait, or not one token at a time.
        """
        if wait_ms < 0:
            raise ValueError(f"wait_ms must not be negative, got {wait_ms}")
        most = max_tokens or encoder.engine.max_tokens or BATCH_TOKENS
        if max_tokens is not None and max_tokens < 1:
            raise ValueError(f"max_tokens must be a positive integer or None, got {max_tokens}")
        self._encoder = encoder
        self._wait_s = wait_ms / 1000
        self._most = most
        self._waiting: queue.SimpleQueue[_Request | None] = queue.SimpleQueue()
        self._closing = threading.Lock()
        self._closed = False
        self._process = os.getpid()
        self._thread = threading.Thread(target=self._work, name="batcher", daemon=True)
        self._thread.start()

    def encode(
        self, text: str, *, prompt_name: str | None = None, prompt: str | None = None
    ) -> FloatArray:
        """Return a text's embedding, float32 ``[dim]``, once its batch is done.

        Raises:
            ValueError, TypeError: as ``TextEncoder.encode``.
            RuntimeError: the batcher is closed.
        """
        return self.submit(text, prompt_name=prompt_name, prompt=prompt).result()

    def submit(
        self, text: str, *, prompt_name: str | None = None, prompt: str | None = None
    ) -> "Future[FloatArray]":
        """Tokenize here and return at once; raises what ``encode`` does, but for the engine's."""
        request = _Request(self._encoder.tokenize_one(text, prompt_name, prompt))
        with self._closing:
            if self._closed:
                raise RuntimeError("the batcher is closed")
            self._waiting.put(request)
        return request.vector

    def close(self) -> None:
        """Compute what has come in, and end the thread; nothing more is taken.

        In a forked child there is neither: what has come in is its parent's.
        """
        if os.getpid() != self._process:
            return
        with self._closing:
            if not self._closed:
                self._closed = True
                self._waiting.put(None)
        self._thread.join()

    def __enter__(self) -> "Batcher":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _work(self) -> None:
        more = True
        while more:
            requests, more = self._collect()
            live = [r for r in requests if r.vector.set_running_or_notify_cancel()]
            if live:
                self._compute(live)

    def _collect(self) -> tuple[list[_Request], bool]:
        """Wait for a text, then for others; return them, and False when there are no more."""
        first = self._waiting.get()
        if first is None:
            return [], False
        requests, tokens = [first], len(first.tokens.ids)
        deadline = time.monotonic() + self._wait_s
        while tokens < self._most:
            try:
                following = self._waiting.get(timeout=max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                return requests, True
            if following is None:
                return requests, False
            requests.append(following)
            tokens += len(following.tokens.ids)
        return requests, True

    def _compute(self, requests: list[_Request]) -> None:
        encoder = self._encoder
        types = [r.tokens.type_ids.tolist() for r in requests if r.tokens.type_ids is not None]
        texts = join([request.tokens.ids.tolist() for request in requests], types or None)
        for batch in group_lengths(texts.lengths, None, self._most):
            try:
                bucketed = encoder.engine.bucketed
                padded = encoder.tokenizer.pad_some(texts, batch, bucketed=bucketed)
                vectors = encoder.engine.encode(padded)
            except BaseException as error:  # whoever waits for it has to know
                for i in batch:
                    requests[i].vector.set_exception(error)
            else:
                for i, vector in zip(batch, vectors, strict=True):
                    requests[i].vector.set_result(vector)
