"""Read texts from a file or stream, a chunk at a time: txt, jsonl, csv and parquet.

Every complaint names the file and the line; a column that is not there, the columns that are.
"""

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.errors import EncodeError, first_line
from pipeline.text.lines import Lines, RecordError, lines_of, open_lines
from pipeline.text.records import Record, read_csv, read_jsonl, take_text, take_value

FORMATS = ("txt", "jsonl", "csv", "parquet", "beir")

STDIN = "-"

CHUNK_ROWS = 4096
CHUNK_CHARACTERS = 4 << 20
"""A chunk of long texts ends here."""

_SUFFIXES = {".txt": "txt", ".jsonl": "jsonl", ".ndjson": "jsonl", ".csv": "csv"}
_SUFFIXES[".parquet"] = "parquet"
_STRINGS = ("string", "large_string", "string_view")


@dataclass(frozen=True, slots=True, kw_only=True)
class TextSource:
    """Where texts come from; ``column`` and ``keep`` are for formats that have columns."""

    path: str
    form: str
    column: str
    keep: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Chunk:
    """Some texts, and the values beside them by column: a list, or an Arrow array."""

    texts: list[str]
    kept: Mapping[str, Any]


Row = tuple[str, Sequence[Any]]


def make_source(path: str, form: str | None, column: str | None, keep: Sequence[str]) -> TextSource:
    """Check what can be checked before anything is read.

    Raises:
        EncodeError: no such file, a format that cannot be told or read here, or columns of a
            format that has none.
    """
    if form == "beir" and Path(path).is_dir():
        path = str(Path(path) / "corpus.jsonl")
    if path != STDIN and not Path(path).is_file():
        pipe = Path(path).exists() and not Path(path).is_dir()
        raise EncodeError(f"{path}: {'a pipe: give - and its text' if pipe else 'no such file'}")
    form = form or _SUFFIXES.get(Path(path).suffix.lower())
    if form is None:
        raise EncodeError(f"{path}: format not known; give --format, one of {', '.join(FORMATS)}")
    if path == STDIN and form == "parquet":
        raise EncodeError("parquet is not read from a stream; name the file")
    if form == "txt" and (column or keep):
        raise EncodeError(f"{path}: txt has no columns; leave --column and --keep out")
    return TextSource(path=path, form=form, column=column or "text", keep=tuple(keep))


def read_chunks(source: TextSource) -> Iterator[Chunk]:
    """Yield the source's texts in order, none of them left out.

    txt: one text a line, an empty line is an empty text. jsonl and csv: ``pipeline.text.records``.
    beir: jsonl whose title, where there is one, goes before its text. All in UTF-8.

    Raises:
        EncodeError: not readable as its format, a column missing, or a text that is none.
    """
    try:
        if source.form == "parquet":
            yield from _read_parquet(source)
            return
        with _open(source) as lines:
            yield from _chunk(_rows(lines, source), source.keep)
    except RecordError as error:
        raise EncodeError(str(error)) from error
    except OSError as error:
        raise EncodeError(f"{source.path}: {error.strerror or error}") from error


def _open(source: TextSource) -> AbstractContextManager[Lines]:
    if source.path == STDIN:
        return nullcontext(lines_of(sys.stdin.buffer, STDIN))
    return open_lines(Path(source.path))


def _chunk(rows: Iterator[Row], keep: Sequence[str]) -> Iterator[Chunk]:
    texts: list[str] = []
    values: list[Sequence[Any]] = []
    characters = 0
    for text, kept in rows:
        texts.append(text)
        values.append(kept)
        characters += len(text)
        if len(texts) == CHUNK_ROWS or characters >= CHUNK_CHARACTERS:
            yield Chunk(texts=texts, kept=_columns(keep, values))
            texts, values, characters = [], [], 0
    if texts:
        yield Chunk(texts=texts, kept=_columns(keep, values))


def _columns(keep: Sequence[str], values: list[Sequence[Any]]) -> dict[str, list[Any]]:
    return {name: [row[i] for row in values] for i, name in enumerate(keep)}


def _rows(lines: Lines, source: TextSource) -> Iterator[Row]:
    if source.form == "txt":
        return ((line.removesuffix("\n").removesuffix("\r"), ()) for _, line in lines.numbered)
    read = read_csv if source.form == "csv" else read_jsonl
    return _pick(read(lines, _needs(source)), source)


def _needs(source: TextSource) -> dict[str, str]:
    return dict.fromkeys(source.keep, "--keep") | {source.column: "--column"}


def _pick(records: Iterator[Record], source: TextSource) -> Iterator[Row]:
    for record in records:
        kept = [take_value(record, name) for name in source.keep]
        text = take_text(record, source.column)
        if source.form == "beir" and record.fields.get("title"):
            text = f"{take_text(record, 'title')} {text}".strip()
        yield text, kept


def _read_parquet(source: TextSource) -> Iterator[Chunk]:
    arrow, parquet = import_arrow()
    columns = list(dict.fromkeys((source.column, *source.keep)))
    try:
        with parquet.ParquetFile(source.path) as file:
            _check_columns(file.schema_arrow, columns, source)
            start = 0
            for batch in file.iter_batches(CHUNK_ROWS, columns=columns):
                texts = batch.column(source.column).cast(arrow.string()).to_pylist()
                if None in texts:
                    row = start + texts.index(None) + 1
                    raise EncodeError(f"{source.path}: row {row}: {source.column} is null")
                yield Chunk(texts=texts, kept={name: batch.column(name) for name in source.keep})
                start += len(texts)
    except (arrow.ArrowException, UnicodeDecodeError) as error:
        raise EncodeError(f"{source.path}: not readable as parquet: {first_line(error)}") from error


def _check_columns(schema: Any, columns: Sequence[str], source: TextSource) -> None:
    for name in columns:
        if name not in schema.names:
            seen = ", ".join(map(repr, schema.names))
            option = "--column" if name == source.column else "--keep"
            raise EncodeError(f"{source.path}: no column {name!r}, it has {seen}; set {option}")
        if schema.names.count(name) > 1:
            raise EncodeError(f"{source.path}: two columns are named {name!r}; rename one")
    kind = str(schema.field(source.column).type)
    if kind.removeprefix("dictionary<values=").split(",")[0] not in _STRINGS:
        raise EncodeError(f"{source.path}: column {source.column!r} is {kind}, expected strings")


def import_arrow() -> tuple[Any, Any]:
    """Return pyarrow and pyarrow.parquet.

    Raises:
        EncodeError: not installed.
    """
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise EncodeError(
            "parquet needs pyarrow, which is not installed: pip install 'pyarrow' (extra: files)"
        ) from error
    return pyarrow, pyarrow.parquet
