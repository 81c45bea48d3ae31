"""Progress of long work: a bar on a terminal, nothing but the log's lines elsewhere."""

from collections.abc import Iterable, Iterator
from typing import TypeVar

from rich.console import Console
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
