"""Keep an encoder out of forked children: an engine's threads stay in the parent.

A child that computes with it waits for threads that it does not have, at the latest when it ends
and the engine's destructor joins them.
"""

import ctypes
import os
import weakref
from typing import Any

_live: "weakref.WeakSet[Any]" = weakref.WeakSet()
_processes: list[int] = []
"""The process that loaded an encoder first, as its children see it too."""


def own_process(encoder: object) -> int:
    """Note an encoder, so that no child of this process destroys it; return this process's id."""
    _live.add(encoder)
    if not _processes:
        _processes.append(os.getpid())
    return os.getpid()


def forked_from() -> int | None:
    """Return the process with encoders that this one was forked from, or None."""
    return _processes[0] if _processes and _processes[0] != os.getpid() else None


def require_own_process(process: int) -> None:
    """Refuse an encoder that another process loaded.

    Raises:
        RuntimeError: this process was forked after it was loaded.
    """
    if os.getpid() != process:
        raise RuntimeError(
            f"this encoder was loaded by process {process}, and process {os.getpid()} was forked "
            "from it without the engine's threads: load the bundle after the fork, in each worker "
            "(gunicorn: without --preload; multiprocessing: the start method 'spawn')"
        )


def _leave_to_the_parent() -> None:
    for encoder in list(_live):
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(encoder))
    _live.clear()
    if _processes:  # the tokenizers library's own threads stayed behind too
        os.environ["TOKENIZERS_PARALLELISM"] = "false"


os.register_at_fork(after_in_child=_leave_to_the_parent)
