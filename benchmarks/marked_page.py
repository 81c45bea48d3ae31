"""Write what a benchmark made into a page of the docs, between two marks."""

from pathlib import Path


def write_between(page: Path, begin: str, end: str, text: str) -> None:
    """Put the text between the two marks of a page, and keep the rest.

    Raises:
        ValueError: the marks are not there once each, in this order.
    """
    before, _, rest = page.read_text("utf-8").partition(begin)
    if begin in rest or rest.count(end) != 1:
        raise ValueError(f"{page}: expected the lines {begin} and {end}, once each")
    page.write_text(f"{before}{begin}\n\n{text}\n\n{end}{rest.split(end)[1]}", "utf-8")
