"""End a command in order when a signal asks for it: one line, nothing half-done, exit 128 + signal.

SIGTERM and SIGHUP become an exception in the main thread, as Ctrl-C does, so that whatever is
entered is left: staging directories are removed, drafts deleted, children killed. The handlers are
installed whoever runs the command: process 1 of a container ignores SIGTERM otherwise.
"""

import ctypes
import os
import signal
import sys
import threading
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any, Self

INTERRUPTED = 130

_AGAIN_S = 0.05
_PR_SET_PDEATHSIG = 1


class EndedError(BaseException):
    """A signal ends the command; like KeyboardInterrupt, no ``except Exception`` catches it."""


def run_to_end(do: Callable[[], int], *, left: str) -> int:
    """Return what ``do`` returns, or 128 + the signal that ended it, with a line on stderr.

    ``left`` says in that line what the end came to. A second signal while ``do`` cleans up changes
    nothing. Outside the main thread, where Python takes no signals, only ``do`` runs.
    """
    if threading.current_thread() is not threading.main_thread():
        return do()
    with _Signals() as signals:
        try:
            code = do()
            if code == 0 or signals.first is None:
                return code
        except KeyboardInterrupt:
            print(f"interrupted: {left}", file=sys.stderr)
            return INTERRUPTED
        except BaseException:
            if signals.first is None:
                raise
        # Native code may have made an error of its own of ours.
        print(f"ended by {signals.first.name}: {left}", file=sys.stderr)
        return 128 + signals.first


def die_with_parent() -> None:
    """Have the kernel kill this process when the thread that started it ends (Linux, prctl(2)).

    So a build does not go on for nobody, nor writes to a pipe that nobody reads.
    """
    parent = os.getppid()
    prctl = getattr(ctypes.CDLL(None), "prctl", None)
    if prctl is not None:
        prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL))
    if os.getppid() != parent:  # it died before that call
        os.kill(os.getpid(), signal.SIGKILL)


class _Signals:
    """While it is entered, the first of the signals raises ``EndedError``; later ones do not."""

    def __init__(self) -> None:
        self.first: signal.Signals | None = None
        self._before: dict[signal.Signals, Any] = {}
        self._hook = sys.unraisablehook

    def __enter__(self) -> Self:
        for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGALRM):
            if number is signal.SIGHUP and signal.getsignal(number) is signal.SIG_IGN:
                continue  # nohup
            self._before[number] = signal.signal(number, self._end)
        self._hook, sys.unraisablehook = sys.unraisablehook, self._not_raised
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        sys.unraisablehook = self._hook
        signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _end(self, number: int, _frame: FrameType | None) -> None:
        if number == signal.SIGALRM:
            raise EndedError
        if self.first is None:
            self.first = signal.Signals(number)
            raise EndedError

    def _not_raised(self, dropped: Any) -> None:
        """Raise again what came up in a finalizer or a callback, which Python drops."""
        if dropped.exc_type is EndedError:
            signal.setitimer(signal.ITIMER_REAL, _AGAIN_S)
        else:
            self._hook(dropped)
