"""Read a dataset's files: CSV, JSON lines and BEIR directories."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.config import DatasetFormat
from pipeline.errors import DatasetError
from pipeline.text.lines import RecordError, open_lines
from pipeline.text.records import (
    Record,
    read_csv,
    read_jsonl,
    read_tsv,
    take_label,
    take_text,
    unquoted,
)

_COLUMN_KEYS = "the dataset.*_column keys"
_WHOLE_NUMBER = re.compile(r"[+-]?[0-9]{1,9}")


@dataclass(frozen=True, slots=True, kw_only=True)
class BeirCollection:
    """Queries with a judged document, all documents, and each query's relevance by document."""

    queries: tuple[str, ...]
    documents: tuple[str, ...]
    relevant: tuple[Mapping[int, int], ...]


def read_records(
    path: Path, form: DatasetFormat, texts: Sequence[str], labels: Sequence[str]
) -> Iterator[tuple[str, dict[str, str]]]:
    """Yield where each row stands, and its wanted columns, none of them blank.

    Labels (a score, a group) may be numbers where the format has them; texts may not.

    Raises:
        DatasetError: not readable as the format, a column missing, or a field empty.
    """
    read = read_csv if form is DatasetFormat.csv else read_jsonl
    found = False
    try:
        with open_lines(path) as lines:
            for record in read(lines, dict.fromkeys([*texts, *labels], _COLUMN_KEYS)):
                found = True
                fields = {name: _filled(record, name, is_text=True) for name in texts}
                yield (
                    record.where,
                    fields | {name: _filled(record, name, is_text=False) for name in labels},
                )
    except RecordError as error:
        raise DatasetError(str(error)) from error
    if not found:
        raise DatasetError(f"{path}: holds no rows")


def _filled(record: Record, column: str, *, is_text: bool) -> str:
    value = (
        ""
        if record.fields[column] is None
        else (take_text if is_text else take_label)(record, column)
    )
    if not value.strip():
        raise RecordError(f"{record.where}: {column} is empty; remove the row")
    return value


def read_beir(path: Path, split: str) -> BeirCollection:
    """Read ``corpus.jsonl``, ``queries.jsonl`` and ``qrels/<split>.tsv``.

    Raises:
        DatasetError: a file is missing or malformed, or no query has a relevant document.
    """
    qrels = path / "qrels" / f"{split}.tsv"
    try:
        corpus = _read_beir_texts(path / "corpus.jsonl")
        queries = _read_beir_texts(path / "queries.jsonl")
        if not qrels.is_file():
            raise DatasetError(
                f"{qrels}: no such file; set dataset.split to one of the files there"
            )
        judged = _read_qrels(qrels, queries, {key: i for i, key in enumerate(corpus)})
    except RecordError as error:
        raise DatasetError(str(error)) from error
    if not judged:
        raise DatasetError(f"{qrels}: no query with a relevant document of the corpus")
    kept = [key for key in queries if key in judged]
    return BeirCollection(
        queries=tuple(queries[key] for key in kept),
        documents=tuple(corpus.values()),
        relevant=tuple(judged[key] for key in kept),
    )


def _read_beir_texts(path: Path) -> dict[str, str]:
    """Read texts by id; a title goes before its text, as BEIR's own evaluation does."""
    texts: dict[str, str] = {}
    first: dict[str, str] = {}
    with open_lines(path) as lines:
        keys = dict.fromkeys(("_id", "text"), "these keys, as BEIR does")
        for record in read_jsonl(lines, keys):
            key = take_label(record, "_id")
            if key in first:
                raise RecordError(
                    f"{record.where}: _id {key!r} stands in {first[key]} too; remove one of them"
                )
            first[key] = record.where.removeprefix(f"{path}: ")
            title, text = (
                "" if record.fields.get(name) is None else take_text(record, name)
                for name in ("title", "text")
            )
            texts[key] = f"{title} {text}".strip()
    return texts


def _read_qrels(
    path: Path, queries: Mapping[str, str], documents: Mapping[str, int]
) -> dict[str, dict[int, int]]:
    """Read each query's gains by document; what is not in the collection is left out."""
    gains: dict[tuple[str, int], int] = {}
    with open_lines(path) as lines:
        names = ("query-id", "corpus-id", "score")
        header = f"a header of {', '.join(names)} between tabs"
        for record in read_tsv(lines, dict.fromkeys(names, header)):
            query, document, score = (str(record.fields[name]) for name in names)
            if not _WHOLE_NUMBER.fullmatch(unquoted(score).strip()):
                raise RecordError(
                    f"{record.where}: score is {score[:40]!r}, expected a whole number"
                )
            gain = int(unquoted(score))
            # An id may begin with a quote; some writers quote ids that hold one.
            query = query if query in queries else unquoted(query)
            index = documents.get(document, documents.get(unquoted(document)))
            if query not in queries or index is None:
                continue
            if gains.setdefault((query, index), gain) != gain:
                raise RecordError(
                    f"{record.where}: {query!r} and {document!r} are judged before, by another "
                    "score; keep one"
                )
    judged: dict[str, dict[int, int]] = {}
    for (query, index), gain in gains.items():
        if gain > 0:
            judged.setdefault(query, {})[index] = gain
    return judged
