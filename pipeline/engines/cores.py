"""Count the machine's cores that this process may use."""

import os


def usable_cores() -> int:
    """Return the cores that the process is allowed on, which may be fewer than there are."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
