"""Walk the fields of a protobuf message where it lies in a file, without its schema.

https://protobuf.dev/programming-guides/encoding/
"""

import mmap
from collections.abc import Iterator


def entries(data: mmap.mmap, start: int, end: int) -> Iterator[tuple[int, int, int]]:
    """Yield number, begin and end of every length-delimited field; skip the others.

    Raises:
        ValueError: the bytes are no protobuf message.
    """
    while start < end:
        tag, start = _varint(data, start, end)
        wire = tag & 7
        if wire == 0:
            _, start = _varint(data, start, end)
        elif wire == 2:
            size, start = _varint(data, start, end)
            yield tag >> 3, start, start + size
            start += size
        elif wire in (1, 5):
            start += 8 if wire == 1 else 4
        else:
            raise ValueError(f"wire type {wire}")
    if start > end:
        raise ValueError("cut off")


def _varint(data: mmap.mmap, start: int, end: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if start >= end:
            raise ValueError("cut off")
        byte = data[start]
        start += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, start
    raise ValueError("a number of more than 10 bytes")
