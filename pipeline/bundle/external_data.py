"""Name the files that an ONNX graph makes a runtime open, without the ``onnx`` package.

Serving does without that package, and parsing a graph of gigabytes to find a few strings would
double its memory. Only the fields on the way to ``TensorProto.external_data`` are entered; all
others are skipped where they lie in the file
(https://protobuf.dev/programming-guides/encoding/, https://onnx.ai/onnx/api/classes.html).
"""

import mmap
from collections.abc import Iterator
from pathlib import Path

from pipeline.errors import BundleError
from pipeline.graph.protobuf import entries

Fields = dict[int, str]

MESSAGES: dict[str, Fields] = {
    "ModelProto": {7: "GraphProto", 20: "TrainingInfoProto", 25: "FunctionProto"},
    "TrainingInfoProto": {1: "GraphProto", 2: "GraphProto"},
    "GraphProto": {1: "NodeProto", 5: "TensorProto", 15: "SparseTensorProto"},
    "FunctionProto": {7: "NodeProto", 11: "AttributeProto"},
    "NodeProto": {5: "AttributeProto"},
    "AttributeProto": {
        5: "TensorProto",
        6: "GraphProto",
        10: "TensorProto",
        11: "GraphProto",
        22: "SparseTensorProto",
        23: "SparseTensorProto",
    },
    "SparseTensorProto": {1: "TensorProto", 2: "TensorProto"},
    "TensorProto": {13: "StringStringEntryProto"},
}
"""By message, the fields that lead to external data and what they hold."""

_DEEPEST = 100
"""Protobuf's own limit on messages inside messages."""


def external_locations(path: Path) -> set[str]:
    """Return every ``location`` in a graph's external data.

    Raises:
        BundleError: the file is not an ONNX graph.
    """
    try:
        with (
            path.open("rb") as stream,
            mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as data,
        ):
            return set(_locations(data, 0, len(data), "ModelProto", 0))
    except (OSError, ValueError, IndexError) as error:
        raise BundleError(
            f"{path}: not an ONNX graph: {error}; publish the bundle again"
        ) from error


def _locations(data: mmap.mmap, start: int, end: int, message: str, depth: int) -> Iterator[str]:
    if depth > _DEEPEST:
        raise ValueError(f"more than {_DEEPEST} messages inside each other")
    for number, begin, stop in entries(data, start, end):
        inner = MESSAGES[message].get(number)
        if inner == "StringStringEntryProto":
            entry = dict(_texts(data, begin, stop))
            if entry.get(1) == "location":
                yield entry.get(2, "")
        elif inner is not None:
            yield from _locations(data, begin, stop, inner, depth + 1)


def _texts(data: mmap.mmap, start: int, end: int) -> Iterator[tuple[int, str]]:
    for number, begin, stop in entries(data, start, end):
        yield number, data[begin:stop].decode("utf-8")
