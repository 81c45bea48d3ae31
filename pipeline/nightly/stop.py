"""Catch SIGTERM, SIGINT and SIGHUP as a flag, so that what runs can be ended in order."""

import signal
from types import FrameType, TracebackType
from typing import Any, Self

_CAUGHT = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


class Stop:
    """While it is entered, ``signal`` is the first of the signals that came, or None."""

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        for number in _CAUGHT:
            self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, _frame: FrameType | None) -> None:
        self.signal = self.signal or signal.Signals(number)
