"""End a command in order when a signal asks for it: one line, nothing half-done, exit 128 + signal.

SIGTERM and SIGHUP become an exception in the main thread, as Ctrl-C does, so that whatever is
entered is left: staging directories are removed, drafts deleted, children killed. The handlers are
installed whoever runs the command: process 1 of a container ignores SIGTERM otherwise. Whatever
comes next, Ctrl-C once more among it, does not disturb that.
"""

import contextlib
import ctypes
import os
import select
import signal
import sys
import threading
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any, Self

from pipeline.errors import disk_error
from pipeline.printable import print_error

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
            code = _with_output(do)
            if code == 0 or signals.first is None:
                return code
        except KeyboardInterrupt:
            signals.first = signals.first or signal.SIGINT
        except BaseException:
            if signals.first is None:
                raise
        # Native code may have made an error of its own of ours.
        first = signals.first
        assert first is not None
        word = "interrupted" if first == signal.SIGINT else f"ended by {first.name}"
        print(f"{word}: {left}", file=sys.stderr)
        return 128 + first


def output_is_gone(error: BaseException) -> bool:
    """Whether an error means that nobody reads standard output any more: ``| head``."""
    if not isinstance(error, BrokenPipeError):
        return False
    with contextlib.suppress(OSError, ValueError):  # it has no descriptor
        poll = select.poll()
        poll.register(sys.stdout.fileno(), select.POLLOUT)
        return any(event & select.POLLERR for _, event in poll.poll(0))
    return False


def _with_output(do: Callable[[], int]) -> int:
    """Return what ``do`` returns once what it printed is out, and 1 where that fails.

    A full or broken disk, which no command has translated, is a line too.
    """
    try:
        code = do()
        if sys.stdout is not None:
            sys.stdout.flush()
    except OSError as error:
        gone = output_is_gone(error)
        if not gone and disk_error(error) is None:
            raise
        if not gone:
            named = f" {error.filename}" if error.filename else ""
            print_error(f"cannot read or write{named}: {error.strerror}")
        with contextlib.suppress(OSError, ValueError):  # nothing to say at exit
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    return code


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
    """While it is entered, the first of the signals raises; later ones do not."""

    def __init__(self) -> None:
        self.first: signal.Signals | None = None
        self._before: dict[signal.Signals, Any] = {}
        self._hook = sys.unraisablehook

    def __enter__(self) -> Self:
        for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGALRM):
            if number is signal.SIGHUP and signal.getsignal(number) is signal.SIG_IGN:
                continue  # nohup
            self._before[number] = signal.signal(number, self._end)
        if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            self._before[signal.SIGINT] = signal.signal(signal.SIGINT, self._end)
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
            raise KeyboardInterrupt if number == signal.SIGINT else EndedError

    def _not_raised(self, dropped: Any) -> None:
        """Raise again what came up in a finalizer or a callback, which Python drops."""
        if self.first is not None and dropped.exc_type in (EndedError, KeyboardInterrupt):
            signal.setitimer(signal.ITIMER_REAL, _AGAIN_S)
        else:
            self._hook(dropped)
