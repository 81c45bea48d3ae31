"""Read records from CSV, tab-separated and JSON lines, strictly: nothing is guessed, cut or lost.

Every row is as wide as its header and a name stands once; what is not so is refused by file and
line, with the way to mend it. Quotes are CSV's alone: in tab-separated files they are characters
like others.
"""

import csv
import json
import math
import sys
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NoReturn

from pipeline.text.lines import Lines, RecordError

SHOWN = 40
"""Characters of a bad value that a message shows."""

_QUOTING = "quote a text that holds a comma, a quote or a line end"


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """The fields of a row by name, and where the row begins."""

    where: str
    fields: Mapping[str, object]


Needs = Mapping[str, str]
"""The columns that have to be there, each with the option or key that names another."""


def read_csv(lines: Lines, needs: Needs) -> Iterator[Record]:
    """Yield the rows of a CSV file whose first row is its header; empty lines are skipped.

    In a file of one column an empty line is an empty text to some and nothing to others: it is
    refused unless nothing follows.

    Raises:
        RecordError: not CSV, a row of another width than the header, or a column wanting.
    """
    rows = _csv_rows(lines)
    _, header = next(((n, row) for n, row in rows if row), (1, []))
    _check_header(header, lines, needs, "commas")
    empty: int | None = None
    for number, row in rows:
        if not row:
            empty = empty or number
            continue
        if empty is not None and len(header) == 1:
            raise RecordError(
                f'{lines.at(empty)}: empty; write an empty text as "", or remove the line'
            )
        yield _record(header, row, lines.at(number), _QUOTING)


def _csv_rows(lines: Lines) -> Iterator[tuple[int, list[str]]]:
    """Yield each row with the line that it begins on."""
    csv.field_size_limit(sys.maxsize)
    reader = csv.reader((line for _, line in lines.numbered), strict=True)
    while True:
        number = reader.line_num + 1
        try:
            row = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            words = _csv_words(str(error), reader.line_num)
            raise RecordError(f"{lines.at(number)}: not readable as csv: {words}") from error
        yield number, row


def _csv_words(words: str, number: int) -> str:
    if "new-line character" in words:
        return "a CR inside a field without quotes; quote the field, or remove it"
    if "unexpected end" in words:
        return "a quote opens in this row and never closes; close it, or double it"
    return f"{words} on line {number}; {_QUOTING}, and double the quotes inside"


def read_tsv(lines: Lines, needs: Needs) -> Iterator[Record]:
    """Yield the rows of a file of tab-separated fields whose first line is its header.

    Quotes are read as they stand; empty lines are skipped.

    Raises:
        RecordError: a row of another width than the header, or a column wanting.
    """
    header: list[str] | None = None
    for number, line in lines.numbered:
        row = line.rstrip("\r\n").split("\t")
        if row == [""]:
            continue
        if header is None:
            header = [unquoted(name) for name in row]
            _check_header(header, lines, needs, "tabs", number)
        else:
            yield _record(header, row, lines.at(number), "a field holds no tab")
    if header is None:
        _check_header([], lines, needs, "tabs")


def unquoted(field: str) -> str:
    """Return what a field says that some writers quote, or the field itself."""
    inner = field[1:-1]
    quoted = len(field) > 1 and field[0] == field[-1] == '"' and '"' not in inner.replace('""', "")
    return inner.replace('""', '"') if quoted else field


def _check_header(
    header: Sequence[str], lines: Lines, needs: Needs, separator: str, number: int = 1
) -> None:
    if not header:
        raise RecordError(f"{lines.at(number)}: empty; the first line names the columns")
    twice = _repeated([name for name in header if name])
    if twice is not None:
        raise RecordError(
            f"{lines.at(number)}: two columns are named {twice!r}; rename or remove one"
        )
    others = {";", "\t", "|"} if separator == "commas" else {",", ";", " "}
    alone = len(header) == 1 and any(mark in header[0] for mark in others)
    hint = f"; separate the columns by {separator}" if alone else ""
    _check_needs(header, needs, lines.at(number), hint)


def _repeated(names: Sequence[str]) -> str | None:
    return next((name for name, times in Counter(names).items() if times > 1), None)


def _check_needs(seen: Collection[str], needs: Needs, where: str, hint: str = "") -> None:
    for name, setting in needs.items():
        if name not in seen:
            shown = ", ".join(map(repr, seen))
            raise RecordError(
                f"{where}: no column {name!r}, it has {shown}{hint or f'; set {setting}'}"
            )


def _record(header: Sequence[str], row: Sequence[str], where: str, fix: str) -> Record:
    if len(row) != len(header):
        fields = "1 field" if len(row) == 1 else f"{len(row)} fields"
        raise RecordError(
            f"{where}: {fields}, expected {len(header)} as in the header "
            f"({', '.join(header)[: 2 * SHOWN]}); {fix}"
        )
    return Record(where=where, fields=dict(zip(header, row, strict=True)))


def read_jsonl(lines: Lines, needs: Needs) -> Iterator[Record]:
    """Yield the objects of a file that holds one a line; blank lines are skipped.

    Raises:
        RecordError: a line is no JSON object, names a key twice, or lacks one that is needed.
    """
    for number, line in lines.numbered:
        if not line.strip():
            continue
        where = lines.at(number)
        try:
            fields = _STRICT.decode(line.strip())
        except _TwiceError as error:
            raise RecordError(f"{where}: {error}; remove one") from error
        except ValueError as error:
            words = error.msg if isinstance(error, json.JSONDecodeError) else str(error)
            raise RecordError(f"{where}: not JSON: {words}; one object a line") from error
        except RecursionError as error:
            raise RecordError(f"{where}: nested too deeply to read") from error
        if not isinstance(fields, dict):
            raise RecordError(f"{where}: expected an object, saw {line.strip()[:SHOWN]}")
        _check_needs(fields, needs, where)
        yield Record(where=where, fields=fields)


class _TwiceError(ValueError):
    """A key stands twice in one object."""


def _one_of_each(pairs: list[tuple[str, object]]) -> dict[str, object]:
    fields = dict(pairs)
    if len(fields) < len(pairs):
        twice = _repeated([name for name, _ in pairs])
        raise _TwiceError(f"the key {twice!r} stands twice")
    return fields


def _finite(number: str) -> float:
    value = float(number)
    if math.isinf(value):
        raise ValueError(f"{number[:SHOWN]} is too large a number")
    return value


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no value of JSON; write null, or leave it out")


_STRICT = json.JSONDecoder(
    object_pairs_hook=_one_of_each, parse_float=_finite, parse_constant=_refuse_constant
)
"""Python's own takes NaN, and the last of two equal keys."""


def take_text(record: Record, column: str) -> str:
    """Return a field that has to be text.

    Raises:
        RecordError: it is something else, or holds half a surrogate pair, which JSON can spell.
    """
    value = record.fields[column]
    if not isinstance(value, str):
        raise RecordError(
            f"{record.where}: {column} is {json.dumps(value)[:SHOWN]}, expected a string"
        )
    return _check_unicode(value, record, column)


def take_label(record: Record, column: str) -> str:
    """Return a field that names or counts something, as text: a string or a number.

    Raises:
        RecordError: it is something else, or not Unicode.
    """
    value = record.fields[column]
    if isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)
    if not isinstance(value, str):
        raise RecordError(
            f"{record.where}: {column} is {json.dumps(value)[:SHOWN]}, expected a string or a "
            "number"
        )
    return _check_unicode(value, record, column)


def take_value(record: Record, column: str) -> object:
    """Return a field as it is, whatever it is.

    Raises:
        RecordError: not Unicode, in whatever depth.
    """
    value = record.fields[column]
    if isinstance(value, dict | list):
        _check_unicode(json.dumps(value, ensure_ascii=False), record, column)
    return _check_unicode(value, record, column) if isinstance(value, str) else value


def _check_unicode(value: str, record: Record, column: str) -> str:
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise RecordError(
            f"{record.where}: {column} is not Unicode: a lone surrogate; mend or remove the row"
        ) from error
    return value
