"""Write vectors to a file, a block at a time, complete or not at all."""

import contextlib
import fcntl
import glob
import os
import secrets
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, Protocol

import numpy as np
import numpy.typing as npt

from pipeline.errors import EncodeError, first_line
from pipeline.files import discard
from pipeline.runtime.text_files import import_arrow

FORMATS = ("npy", "parquet", "usearch", "faiss", "qdrant-jsonl")

INDEXES = ("usearch", "faiss", "qdrant-jsonl")
"""What other programs search in."""

VECTORS = "embedding"
"""The parquet column of the vectors."""


class VectorWriter(Protocol):
    """Takes blocks ``[n, dim]`` of one dtype, with n values for each kept column."""

    def write(self, vectors: npt.NDArray[Any], kept: Mapping[str, Any], /) -> None:
        """Append a block."""
        ...

    def finish(self, empty: npt.NDArray[Any], keep: Sequence[str], /) -> None:
        """Write what comes last; without a row, ``empty`` ``[0, dim]`` and ``keep`` say of what."""
        ...

    def discard(self) -> None:
        """Let go of the stream, whatever state it is in."""
        ...


def kind_of(path: Path, to: str | None) -> str:
    """Return what is written to ``path``: ``to``, or what its name says.

    Raises:
        EncodeError: the name says nothing.
    """
    kind = to or path.suffix.removeprefix(".")
    if kind not in FORMATS:
        raise EncodeError(
            f"{path}: expected a name that ends in .npy, .parquet, .usearch or .faiss; or say "
            f"what to write with --to, one of {', '.join(FORMATS)}"
        )
    return kind


@contextlib.contextmanager
def write_vectors(
    path: Path, *, overwrite: bool, to: str | None = None, index: str = "flat"
) -> Iterator[VectorWriter]:
    """Give a writer for ``path``, which appears when the block ends and stays as it is otherwise.

    ``to`` is one of ``FORMATS``, None for what the name says; ``index`` is of faiss. What is
    written goes to a hidden file beside it, removed if the block is left early. What a process
    killed by SIGKILL left there is removed by the next to write ``path``.

    Raises:
        EncodeError: a name that says nothing, a file there already, or it cannot be written.
    """
    kind = kind_of(path, to)
    if path.is_dir() or (path.exists() and not overwrite):
        hint = "name a file" if path.is_dir() else "give --overwrite to replace it"
        raise EncodeError(f"{path}: exists; {hint}")
    partial = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.partial")
    _remove_orphans(path)
    try:
        with _open_locked(partial) as stream:
            writer = _writer(kind, stream, path, index)
            try:
                yield writer
            except BaseException:
                writer.discard()
                raise
            stream.flush()
            os.fsync(stream.fileno())
        partial.replace(path)
    except OSError as error:
        raise EncodeError(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        discard(partial)


def _open_locked(partial: Path) -> IO[bytes]:
    """Open a fresh file to write, locked: whoever finds it can tell that its writer lives.

    Raises:
        OSError: it cannot be made.
    """
    while True:
        stream = partial.open("wb")
        fcntl.flock(stream, fcntl.LOCK_EX)
        if os.fstat(stream.fileno()).st_nlink:
            return stream
        stream.close()  # taken for an orphan before it was locked


def _remove_orphans(path: Path) -> None:
    """Remove the hidden files of writers of ``path`` that live no more, on whatever machine."""
    for orphan in path.parent.glob(f".{glob.escape(path.name)}.*.partial"):
        with contextlib.suppress(OSError), orphan.open("rb") as stream:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)  # BlockingIOError: it lives
            orphan.unlink()


def _writer(kind: str, stream: IO[bytes], path: Path, index: str) -> VectorWriter:
    if kind in INDEXES:
        from pipeline.runtime.index_files import FaissWriter, QdrantWriter, UsearchWriter

        if kind == "usearch":
            return UsearchWriter(stream, path)
        return FaissWriter(stream, path, index) if kind == "faiss" else QdrantWriter(stream)
    return NpyWriter(stream) if kind == "npy" else ParquetWriter(stream)


class NpyWriter:
    """An ``.npy`` file whose number of rows is known at its end.

    numpy pads the header so that the first axis can grow in place
    (https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html).
    """

    def __init__(self, stream: IO[bytes]) -> None:
        """Start at the stream's beginning."""
        self._stream = stream
        self._rows = 0

    def write(self, vectors: npt.NDArray[Any], _kept: Mapping[str, Any], /) -> None:
        """Append a block."""
        if not self._rows:
            self._write_header(vectors)
        self._stream.write(np.ascontiguousarray(vectors).data)
        self._rows += len(vectors)

    def finish(self, empty: npt.NDArray[Any], _keep: Sequence[str], /) -> None:
        """Write the header again, with the rows there are."""
        self._stream.seek(0)
        self._write_header(empty)

    def discard(self) -> None:
        """Nothing is held."""

    def _write_header(self, like: npt.NDArray[Any]) -> None:
        header = {
            "descr": np.lib.format.dtype_to_descr(like.dtype),
            "fortran_order": False,
            "shape": (self._rows, like.shape[1]),
        }
        np.lib.format.write_array_header_1_0(self._stream, header)


class ParquetWriter:
    """A parquet file of the kept columns and the vectors, a list of fixed size."""

    def __init__(self, stream: IO[bytes]) -> None:
        """Start at the stream's beginning."""
        self._arrow, self._parquet = import_arrow()
        self._stream = stream
        self._writer: Any = None
        self._schema: Any = None

    def write(self, vectors: npt.NDArray[Any], kept: Mapping[str, Any], /) -> None:
        """Append a block; a kept column has the type that its first block had.

        Raises:
            EncodeError: a later value has another type, or one that parquet has not.
        """
        arrow = self._arrow
        types = {} if self._schema is None else {f.name: f.type for f in self._schema}
        columns = {
            name: self._column(name, values, types.get(name)) for name, values in kept.items()
        }
        flat = arrow.array(np.ascontiguousarray(vectors).reshape(-1))
        columns[VECTORS] = arrow.FixedSizeListArray.from_arrays(flat, vectors.shape[1])
        table = arrow.table(columns)
        try:
            if self._writer is None:
                self._schema = table.schema
                self._writer = self._parquet.ParquetWriter(
                    self._stream, self._schema, use_dictionary=list(kept), compression="zstd"
                )
            self._writer.write_table(table)
        except arrow.ArrowException as error:
            raise EncodeError(
                f"a kept column does not go into parquet: {first_line(error)}"
            ) from error

    def finish(self, empty: npt.NDArray[Any], keep: Sequence[str], /) -> None:
        """Write the footer."""
        if self._writer is None:
            self.write(empty, {name: [] for name in keep})
        self._writer.close()

    def discard(self) -> None:
        """Close pyarrow's writer, or it would write to the stream when it is collected."""
        if self._writer is not None:
            with contextlib.suppress(Exception):
                self._writer.close()
            self._writer.is_open = False

    def _column(self, name: str, values: Any, wanted: Any) -> Any:
        arrow = self._arrow
        if isinstance(values, arrow.Array):
            return values
        try:
            column = arrow.array(values, type=wanted)
        except OverflowError as error:
            raise EncodeError(
                f"column {name!r} holds a number of more than 64 bits; write it as text, or leave "
                "it out of --keep"
            ) from error
        except arrow.ArrowException as error:
            raise EncodeError(
                f"column {name!r} holds values of several types ({first_line(error)}); "
                "leave it out of --keep"
            ) from error
        return column.cast(arrow.string()) if arrow.types.is_null(column.type) else column
