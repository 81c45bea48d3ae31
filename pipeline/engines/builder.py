"""Run the native build in a process of its own.

TensorRT is native code: it can crash or run out of memory, and then only this process ends.
Polygraphy drives ``tensorrt`` and ``tensorrt_rtx`` alike; which one it takes is an environment
variable it reads when imported, one more reason for a process per build.

``pipeline.engines.native_build`` is the other side of the pipe.
"""

import logging
import multiprocessing
import signal
import time
from collections.abc import Callable
from multiprocessing.connection import Connection

from rich.progress import Progress, TaskID

from pipeline.engines.build_messages import BuildRequest, BuildResult, Failure, Log, Phase
from pipeline.engines.native_build import build_here
from pipeline.errors import BuildError
from pipeline.progress import console

log = logging.getLogger(__name__)


def run_build(
    request: BuildRequest, *, timeout_s: int, child: "Callable[..., None] | None" = None
) -> BuildResult:
    """Build in a child process, show its progress, and return what it read back.

    Raises:
        BuildError: TensorRT refused (its own words), the process died, or the time is over.
    """
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=child or build_here, args=(sender, request), daemon=True)
    try:
        # Until the child ignores it, Ctrl-C would have it print the stack of its imports.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
        try:
            process.start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        sender.close()
        outcome = _listen(receiver, deadline=time.monotonic() + timeout_s)
        if isinstance(outcome, BuildResult):
            process.join()
            return outcome
    finally:
        if process.pid is not None:
            process.kill()
            process.join()
    if isinstance(outcome, Failure):
        raise BuildError(
            f"{request.runtime} cannot build {request.model.name}: {outcome.text}; "
            "set engine=onnxruntime to publish without an engine"
        )
    if outcome is TimeoutError:
        raise BuildError(
            f"{request.runtime} was still building {request.model.name} after {timeout_s} s; "
            "raise engine.timeout_s or set engine=onnxruntime"
        )
    raise BuildError(
        f"{request.runtime} ended while building {request.model.name}: {_died(process.exitcode)}; "
        "lower engine.workspace_mib or engine.max_batch, or set engine=onnxruntime"
    )


def _died(exitcode: int | None) -> str:
    if exitcode is not None and exitcode < 0:
        return f"killed by {signal.Signals(-exitcode).name}"
    return f"exit code {exitcode}"


def _listen(receiver: Connection, *, deadline: float) -> object:
    """Forward logs and progress until a result, a failure, the end of the pipe or the deadline."""
    tasks: dict[str, TaskID] = {}
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        while True:
            if not receiver.poll(max(0.0, deadline - time.monotonic())):
                return TimeoutError
            try:
                message = receiver.recv()
            except EOFError:
                return None
            match message:
                case Log(level, text):
                    log.log(level, "%s", text)
                case Phase(name, done=None) if name in tasks:
                    progress.remove_task(tasks.pop(name))
                case Phase(name, steps, done=None) if steps:
                    tasks[name] = progress.add_task(f"  {name}", total=steps)
                case Phase(name, done=int(done)) if name in tasks:
                    progress.update(tasks[name], completed=done)
                case BuildResult() | Failure():
                    return message
