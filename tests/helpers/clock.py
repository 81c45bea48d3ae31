"""Simulated time: it passes only when an encoder says so."""

from collections.abc import Callable
from types import SimpleNamespace

import numpy as np
import numpy.typing as npt
import pytest

from pipeline.measure.speed import grid, latency, rounds, speed
from pipeline.text.tokens import TokenBatch


class Clock:
    """The time in seconds, and who ran in what order."""

    def __init__(self) -> None:
        self.now = 0.0
        self.ran: list[str] = []


class FakeEncoder:
    """An encoder whose n-th call takes ``seconds(n)`` on the clock."""

    device = "cpu"
    max_tokens: int | None = None
    bucketed = False

    def __init__(self, name: str, clock: Clock, seconds: Callable[[int], float]) -> None:
        self.name = name
        self.clock = clock
        self.seconds = seconds
        self.calls = 0

    def encode(self, batch: TokenBatch) -> npt.NDArray[np.float32]:
        self.clock.now += self.seconds(self.calls)
        self.calls += 1
        self.clock.ran.append(self.name)
        return np.zeros((len(batch.input_ids), 2), dtype=np.float32)


def install(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Let everything that is timed read a simulated clock, and return it."""
    fake = Clock()
    for module in (grid, latency, rounds, speed):
        monkeypatch.setattr(module, "time", SimpleNamespace(perf_counter=lambda: fake.now))
    return fake


def make_batches(*shapes: tuple[int, int]) -> list[TokenBatch]:
    """Make batches of (sentences, tokens), the last token of each sentence being padding."""
    batches = []
    for shape in shapes:
        ids = np.ones(shape, dtype=np.int64)
        mask = ids.copy()
        mask[:, -1] = 0
        batches.append(TokenBatch(input_ids=ids, attention_mask=mask, token_type_ids=0 * ids))
    return batches
