"""Print what others wrote: printable characters as they are, all others escaped.

A name in a bundle, or what a registry answers, may hold escape codes that clear a terminal, line
ends that forge a line of ours, and lone surrogates that no terminal can encode.
"""

import logging
import sys
from typing import Any


def printable(text: str) -> str:
    """Return the text on one line, each other character as its escape in Python."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def is_unicode(text: str) -> bool:
    """Whether a text is one: no half of a surrogate pair, as JSON and odd file names spell."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def printable_data(data: Any) -> Any:
    """Return what was read from JSON with all its texts, keys among them, made printable."""
    if isinstance(data, str):
        return printable(data)
    if isinstance(data, dict):
        return {printable(key): printable_data(value) for key, value in data.items()}
    return [printable_data(value) for value in data] if isinstance(data, list) else data


def print_error(error: object) -> None:
    """Print an error as one line on stderr."""
    print(f"error: {printable(str(error))}", file=sys.stderr)


class PrintableFormatter(logging.Formatter):
    """Makes what is logged printable, too."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 (logging's name)
        """Return the message on one line."""
        return printable(super().formatMessage(record))
