"""Show progress of long work: a bar on a terminal, nothing but the log's lines elsewhere."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress
from rich.progress import track as rich_track

Item = TypeVar("Item")

console = Console(stderr=True)


def track(items: Iterable[Item], description: str, *, total: int) -> Iterator[Item]:
    """Yield the items, showing how many of ``total`` are done."""
    yield from rich_track(
        items,
        description=f"  {description}",
        total=total,
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )


@contextmanager
def counting(description: str, *, total: int | None) -> Iterator[Callable[[int], None]]:
    """Show how many of ``total`` are done, as the function yielded is told of more."""
    columns = (*Progress.get_default_columns(), MofNCompleteColumn())
    disable = not console.is_terminal
    with Progress(*columns, console=console, transient=True, disable=disable) as progress:
        task = progress.add_task(f"  {description}", total=total)
        yield lambda done: progress.advance(task, done)
