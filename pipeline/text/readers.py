"""Read CSV, JSON lines and BEIR directories; every complaint names file, row and column."""

import csv
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.config import DatasetFormat
from pipeline.errors import DatasetError


@dataclass(frozen=True, slots=True, kw_only=True)
class BeirCollection:
    """Queries with a judged document, all documents, and each query's relevance by document."""

    queries: tuple[str, ...]
    documents: tuple[str, ...]
    relevant: tuple[Mapping[int, int], ...]


def read_records(
    path: Path, form: DatasetFormat, columns: Sequence[str]
) -> Iterator[tuple[int, dict[str, str]]]:
    """Yield row number and the wanted columns as non-empty text.

    Raises:
        DatasetError: not readable as the format, a column missing, or a text empty.
    """
    found = False
    for number, row in _rows(path, form):
        found = True
        for column in columns:
            if column not in row:
                seen = ", ".join(repr(key) for key in row if key is not None)
                raise DatasetError(
                    f"{path}: row {number} has no column {column!r}, it has {seen}; "
                    "set the dataset.*_column keys"
                )
            if row[column] is None or not str(row[column]).strip():
                raise DatasetError(f"{path}: row {number}: {column} is empty; remove the row")
        yield number, {c: _unicode(path, number, c, row[c]) for c in columns}
    if not found:
        raise DatasetError(f"{path}: holds no rows")


def _rows(path: Path, form: DatasetFormat) -> Iterator[tuple[int, Mapping[str, object]]]:
    number = 0
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            if form is DatasetFormat.csv:
                yield from enumerate(csv.DictReader(stream, strict=True), start=1)
                return
            for number, line in enumerate(stream, start=1):
                if line.strip():
                    row = json.loads(line)
                    if not isinstance(row, dict):
                        raise DatasetError(
                            f"{path}: row {number}: expected an object, saw {line.strip()[:40]}"
                        )
                    yield number, row
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DatasetError(f"{path}: not readable as {form}: {error}") from error
    except json.JSONDecodeError as error:
        raise DatasetError(f"{path}: row {number}: not JSON: {error.msg}") from error


def _unicode(path: Path, number: int, column: str, value: object) -> str:
    text = str(value)
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise DatasetError(
            f"{path}: row {number}: {column} is not valid Unicode; mend or remove the row"
        ) from error
    return text


def read_beir(path: Path, split: str) -> BeirCollection:
    """Read ``corpus.jsonl``, ``queries.jsonl`` and ``qrels/<split>.tsv``.

    Raises:
        DatasetError: a file is missing or malformed, or no query has a relevant document.
    """
    corpus_ids, documents = _read_beir_texts(path / "corpus.jsonl")
    query_ids, queries = _read_beir_texts(path / "queries.jsonl")
    qrels = path / "qrels" / f"{split}.tsv"
    if not qrels.is_file():
        raise DatasetError(f"{qrels}: no such file; set dataset.split to one of the files there")
    index = {key: i for i, key in enumerate(corpus_ids)}
    relevant: dict[str, dict[int, int]] = {}
    with qrels.open(encoding="utf-8", newline="") as stream:
        for number, row in enumerate(csv.DictReader(stream, delimiter="\t"), start=1):
            try:
                document, gain = index.get(row["corpus-id"]), int(row["score"])
                query = row["query-id"]
            except (KeyError, TypeError, ValueError) as error:
                raise DatasetError(
                    f"{qrels}: row {number}: expected columns query-id, corpus-id and score, "
                    f"a whole number: {error!r}"
                ) from error
            if document is not None and gain > 0:
                relevant.setdefault(query, {})[document] = gain
    judged = [i for i, key in enumerate(query_ids) if key in relevant]
    if not judged:
        raise DatasetError(f"{qrels}: no query with a relevant document of the corpus")
    return BeirCollection(
        queries=tuple(queries[i] for i in judged),
        documents=tuple(documents),
        relevant=tuple(relevant[query_ids[i]] for i in judged),
    )


def _read_beir_texts(path: Path) -> tuple[list[str], list[str]]:
    """Read ids and texts; a title goes before its text, as BEIR's own evaluation does."""
    ids, texts = [], []
    for number, row in _rows(path, DatasetFormat.jsonl):
        if "_id" not in row or "text" not in row:
            raise DatasetError(f"{path}: row {number}: expected the keys _id and text")
        ids.append(str(row["_id"]))
        texts.append(
            _unicode(path, number, "text", f"{row.get('title') or ''} {row['text'] or ''}").strip()
        )
    return ids, texts
