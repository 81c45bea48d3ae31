"""Show progress of long work: a bar on a terminal, elsewhere a plain line now and then."""

import logging
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress
from rich.progress import track as rich_track

Item = TypeVar("Item")

console = Console(stderr=True)
log = logging.getLogger(__name__)

LINE_S = 15.0
"""Seconds between two lines."""


def track(items: Iterable[Item], description: str, *, total: int) -> Iterator[Item]:
    """Yield the items, showing how many of ``total`` are done and how long the rest will take."""
    if not console.is_terminal:
        yield from _in_lines(items, description, total)
        return
    yield from rich_track(
        items, description=f"  {description}", total=total, console=console, transient=True
    )


def _in_lines(items: Iterable[Item], description: str, total: int) -> Iterator[Item]:
    """Log a line every ``LINE_S`` seconds; nothing where all is done sooner."""
    started = spoken = time.monotonic()
    for done, item in enumerate(items):
        now = time.monotonic()
        if done and now - spoken >= LINE_S:
            spoken = now
            left = (now - started) / done * (total - done)
            log.info("  %s: %d of %d, about %s left", description, done, total, _duration(left))
        yield item


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.0f} min"


@contextmanager
def counting(description: str, *, total: int | None) -> Iterator[Callable[[int], None]]:
    """Show how many of ``total`` are done, as the function yielded is told of more."""
    columns = (*Progress.get_default_columns(), MofNCompleteColumn())
    disable = not console.is_terminal
    with Progress(*columns, console=console, transient=True, disable=disable) as progress:
        task = progress.add_task(f"  {description}", total=total)
        yield lambda done: progress.advance(task, done)
