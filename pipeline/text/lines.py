"""Read a file's lines as UTF-8, numbered; what is no such text is refused by file and line."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

_UTF_16 = "UTF-16; convert it: iconv -f UTF-16 -t UTF-8"
_SIGNATURES = {
    b"\x1f\x8b": "compressed by gzip; unpack it first, with zcat say",
    b"\x28\xb5\x2f\xfd": "compressed by zstd; unpack it first, with zstdcat say",
    b"PK\x03\x04": "a zip archive or a spreadsheet; unpack it, or save it as CSV in UTF-8",
    b"\xff\xfe": _UTF_16,
    b"\xfe\xff": _UTF_16,
}


class RecordError(Exception):
    """A file is not what it is read as; the message names it, the line and the way to mend it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Lines:
    """The lines of a file, numbered from 1, and the name that messages give it."""

    name: str
    numbered: Iterator[tuple[int, str]]

    def at(self, number: int) -> str:
        """Name a line."""
        return f"{self.name}: line {number}"


@contextmanager
def open_lines(path: Path) -> Iterator[Lines]:
    """Open a file's lines.

    Raises:
        RecordError: it cannot be opened.
    """
    try:
        stream = path.open("rb")
    except OSError as error:
        raise RecordError(f"{path}: {error.strerror or error}") from error
    with stream:
        yield lines_of(stream, str(path))


def lines_of(stream: BinaryIO, name: str) -> Lines:
    """Return the lines of a stream in UTF-8, with a byte order mark or without.

    Raises:
        RecordError: as they are read: not UTF-8, not text, or without an end that is known.
    """
    return Lines(name=name, numbered=_decode(stream, name))


def _decode(stream: BinaryIO, name: str) -> Iterator[tuple[int, str]]:
    try:
        for number, line in enumerate(stream, start=1):
            if number == 1:
                _check_first(line, name)
            try:
                yield number, line.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError as error:
                raise RecordError(
                    f"{name}: line {number}: not UTF-8 (byte {error.start + 1}); convert the "
                    "file, with iconv say"
                ) from error
    except OSError as error:
        raise RecordError(f"{name}: {error.strerror or error}") from error


def _check_first(line: bytes, name: str) -> None:
    """Refuse what can be told from a file's beginning."""
    for signature, what in _SIGNATURES.items():
        if line.startswith(signature):
            raise RecordError(f"{name}: line 1: {what}")
    body = line.rstrip(b"\r\n\0")
    halves = body[::2], body[1::2]
    if len(body) > 4 and any(all(a) and not any(b) for a, b in (halves, halves[::-1])):
        raise RecordError(f"{name}: line 1: {_UTF_16}")
    if not line.endswith(b"\n") and b"\r" in line.rstrip(b"\r"):
        raise RecordError(
            f"{name}: line 1: lines end in CR alone; convert the file: tr '\\r' '\\n'"
        )
