"""Run a command in a process group that ends as a whole, in time, and with its parent."""

import contextlib
import ctypes
import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

_PR_SET_PDEATHSIG = 1
_POLL_S = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    """How a command ended: an exit code, negative for a signal, and why it was ended, if it was."""

    code: int
    timed_out: bool = False
    stopped: bool = False


def start(
    command: Sequence[str],
    *,
    output: IO[bytes] | int,
    environment: Mapping[str, str],
    cwd: Path | None = None,
    on_death: signal.Signals = signal.SIGKILL,
) -> subprocess.Popen[bytes]:
    """Start a command as the leader of a session; ``on_death`` reaches it when this process dies.

    Call it from the main thread: Linux sends the signal when the thread that started it ends
    (prctl(2), PR_SET_PDEATHSIG). Elsewhere than on Linux a killed parent leaves the command behind.

    Raises:
        OSError: it cannot be started.
    """
    parent = os.getpid()
    libc = ctypes.CDLL(None)  # loaded before the fork

    def die_with_parent() -> None:
        prctl = getattr(libc, "prctl", None)
        if prctl is not None:
            prctl(_PR_SET_PDEATHSIG, int(on_death))
        if os.getppid() != parent:  # it died before the call above
            os.kill(os.getpid(), on_death)

    return subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=subprocess.STDOUT,
        env=dict(environment),
        cwd=cwd,
        start_new_session=True,
        preexec_fn=die_with_parent,  # noqa: PLW1509 - no threads here
    )


def wait(
    process: subprocess.Popen[bytes],
    *,
    timeout_s: float,
    grace_s: float,
    is_stopped: Callable[[], bool],
) -> Ending:
    """Wait for the command's end, or end its whole group: too late, or ``is_stopped``.

    What it left running in its group is killed in any case.
    """
    deadline = time.monotonic() + timeout_s
    timed_out = stopped = False
    while process.poll() is None:
        stopped = is_stopped()
        timed_out = not stopped and time.monotonic() >= deadline
        if stopped or timed_out:
            end(process, grace_s=grace_s)
            break
        time.sleep(_POLL_S)
    _signal_group(process.pid, signal.SIGKILL)
    return Ending(code=process.wait(), timed_out=timed_out, stopped=stopped)


def end(process: subprocess.Popen[bytes], *, grace_s: float) -> None:
    """End a command's group: SIGTERM, and after ``grace_s`` SIGKILL."""
    _signal_group(process.pid, signal.SIGTERM)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(grace_s)
    _signal_group(process.pid, signal.SIGKILL)


def _signal_group(group: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, number)
