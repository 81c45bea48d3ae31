"""End a server by SIGTERM while clients ask it: who is answered or lost, and how it ends."""

import signal
import subprocess
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.serving.clients import Connect, Load, put_under_load
from pipeline.vectors import FloatArray


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """What clients got until the end, and what is left of the server."""

    load: Load
    exit_code: int
    seconds: float
    """From the signal to the process's end."""


def terminate(
    process: subprocess.Popen[bytes],
    connect: Connect,
    texts: Sequence[str],
    expected: FloatArray,
    *,
    clients: int,
    after_s: float = 2.0,
    within_s: float = 90.0,
) -> Ended:
    """Send SIGTERM ``after_s`` into the load and wait for the process.

    Raises:
        subprocess.TimeoutExpired: it does not end.
    """
    stop = threading.Event()
    loads: list[Load] = []
    worker = threading.Thread(
        target=lambda: loads.append(
            put_under_load(connect, texts, expected, clients=clients, stop=stop)
        )
    )
    worker.start()
    try:
        time.sleep(after_s)
        started = time.perf_counter()
        process.send_signal(signal.SIGTERM)
        code = process.wait(within_s)
        seconds = time.perf_counter() - started
    finally:
        stop.set()
        worker.join()
    return Ended(load=loads[0], exit_code=code, seconds=seconds)
