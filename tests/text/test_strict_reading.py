"""Files of records: every complaint names file, line and fix; what is unusual but right is read."""

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline.config import DatasetFormat
from pipeline.errors import DatasetError, EncodeError
from pipeline.runtime.text_files import make_source, read_chunks
from pipeline.text.lines import RecordError, lines_of
from pipeline.text.readers import read_beir, read_records
from pipeline.text.records import read_csv, read_jsonl, read_tsv, unquoted

REFUSED = {
    "more fields": ("csv", "text,id\na,1\nb\nc,3,4\n", "line 3: 1 field, expected 2"),
    "a comma without quotes": ("csv", "text,id\na, b,1\n", "line 2: 3 fields, expected 2"),
    "a spreadsheet's semicolons": ("csv", "text;id\na;1\n", "line 1: no column 'text'"),
    "quoted after a space": ("csv", 'id,text\n1, "a, b"\n', "line 2: 3 fields"),
    "a column twice": ("csv", "text,id,text\na,1,b\n", "line 1: two columns are named 'text'"),
    "another column twice": ("csv", "text,id,id\na,1,b\n", "line 1: two columns are named 'id'"),
    "no header": ("csv", "", "line 1: empty; the first line names the columns"),
    "empty lines alone": ("csv", "\n\n", "line 1: empty"),
    "an empty line, one column": ("csv", "text\na\n\nb\n", "line 3: empty; write an empty text"),
    "a quote that never closes": ("csv", 'text\na\n"b\nc\n', "line 3: not readable as csv"),
    "a quote inside": ("csv", 'text\n"5" nails"\n', "line 2: not readable as csv"),
    "a CR inside": ("csv", "text,id\na\rb,1\n", "line 2: not readable as csv: a CR"),
    "rows in CR alone": ("csv", "text,id\ra,1\rb,2\r", "line 1: lines end in CR alone"),
    "objects in CR alone": ("jsonl", '{"text": "a"}\r{"text": "b"}', "line 1: lines end in CR"),
    "a key twice": ("jsonl", '{"text": "a"}\n{"text": "b", "text": "c"}\n', "line 2: the key"),
    "an inner key twice": ("jsonl", '{"text": "a", "m": {"k": 1, "k": 2}}\n', "line 1: the key"),
    "two objects a line": ("jsonl", '{"text": "a"}{"text": "b"}\n', "line 1: not JSON: Extra data"),
    "one array": ("jsonl", '[{"text": "a"},\n{"text": "b"}]\n', "line 1: not JSON"),
    "text is a number": ("jsonl", '{"text": 5}\n', "line 1: text is 5, expected a string"),
    "text is a list": ("jsonl", '{"text": ["a"]}\n', 'line 1: text is ["a"], expected a string'),
    "NaN": ("jsonl", '{"text": "a", "id": NaN}\n', "line 1: not JSON: NaN is no value of JSON"),
    "infinity": ("jsonl", '{"text": "a", "id": -Infinity}\n', "line 1: not JSON: -Infinity is no"),
    "no such number": ("jsonl", '{"text": "a", "id": 1e999}\n', "line 1: not JSON: 1e999 is too"),
    "digits without end": ("jsonl", f'{{"text": "a", "id": {"9" * 5000}}}\n', "line 1: not JSON"),
    "nested too deeply": ("jsonl", '{"text": "a"}\n' + "[" * 100_000, "line 2: nested too deeply"),
    "a mark amid the file": ("jsonl", '{"text": "a"}\n\ufeff{"text": "b"}\n', "line 2: not JSON"),
    "NUL in JSON": ("jsonl", '{"text": "a\0"}\n', "line 1: not JSON"),
}  # fmt: skip
BYTES = {
    "latin-1": ("text\ncafé\n".encode("latin-1"), "line 2: not UTF-8 (byte 4)"),
    "UTF-16 with a mark": ("text\na\n".encode("utf-16"), "line 1: UTF-16; convert it: iconv"),
    "UTF-16 without": ("text\na\n".encode("utf-16-le"), "line 1: UTF-16; convert it: iconv"),
    "UTF-16, big end first": ("text\na\n".encode("utf-16-be"), "line 1: UTF-16; convert it"),
    "gzip": (b"\x1f\x8b\x08\0\0\0\0\0", "line 1: compressed by gzip"),
    "a spreadsheet": (b"PK\x03\x04\x14\0\x06\0", "line 1: a zip archive or a spreadsheet"),
}
READ = {
    "a large field": ("csv", "text,id\n" + "x" * 200_000 + ",1\n", ["x" * 200_000]),
    "a large value": ("jsonl", json.dumps({"text": "y" * 200_000, "id": 1}), ["y" * 200_000]),
    "a mark before a quote": ("csv", '\ufeff"text",id\n"a",1\n', ["a"]),
    "Windows lines": ("csv", "text,id\r\na,1\r\n\r\nb,2\r\n", ["a", "b"]),
    "empty texts": ("csv", 'text\n""\na\n\n\n', ["", "a"]),
    "a line end in quotes": ("csv", 'text,id\n"a\nb",1\n"c\r\nd",2\n', ["a\nb", "c\r\nd"]),
    "a CR in quotes": ("csv", 'text,id\n"a\rb",1\n', ["a\rb"]),
    "quotes amid a field": ("csv", 'text,id\nsay "hi" now,1\n', ['say "hi" now']),
    "NUL": ("csv", "text,id\na\0b,1\n", ["a\0b"]),
    "U+2028 and U+0085": ("jsonl", '{"text": "a\u2028b\u0085c"}\n\n', ["a\u2028b\u0085c"]),
    "columns without a name": ("csv", ",text,\n0,a,\n", ["a"]),
}


def encoded(path: Path) -> list[str]:
    chunks = read_chunks(make_source(str(path), None, None, ()))
    return [text for chunk in chunks for text in chunk.texts]


def as_dataset(path: Path) -> list[str]:
    form = DatasetFormat(path.suffix.removeprefix("."))
    return [row["text"] for _, row in read_records(path, form, ["text"], [])]


@pytest.mark.parametrize(("form", "content", "seen"), REFUSED.values(), ids=REFUSED)
def test_a_bad_row_is_refused_by_line_wherever_it_is_read(
    form: str, content: str, seen: str, tmp_path: Path
) -> None:
    path = tmp_path / f"bad.{form}"
    path.write_bytes(content.encode())
    for read, error in ((encoded, EncodeError), (as_dataset, DatasetError)):
        with pytest.raises(error) as caught:
            read(path)
        assert str(caught.value).startswith(f"{path}: {seen}")
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("content", "seen"), BYTES.values(), ids=BYTES)
@pytest.mark.parametrize("form", ["csv", "jsonl", "txt"])
def test_what_is_no_utf8_is_told_what_it_is(
    content: bytes, seen: str, form: str, tmp_path: Path
) -> None:
    path = tmp_path / f"bad.{form}"
    path.write_bytes(content)
    if form == "jsonl" and "line 2" in seen:
        path.write_bytes(b'{"text": "a"}\ncaf\xe9\n')
    with pytest.raises(EncodeError) as caught:
        encoded(path)
    assert str(caught.value).startswith(f"{path}: {seen}")


@pytest.mark.parametrize(("form", "content", "texts"), READ.values(), ids=READ)
def test_what_is_unusual_and_right_is_read(
    form: str, content: str, texts: list[str], tmp_path: Path
) -> None:
    path = tmp_path / f"good.{form}"
    path.write_bytes(content.encode())
    assert encoded(path) == texts
    if "" not in texts:
        assert as_dataset(path) == texts


def test_texts_a_line_in_cr_alone_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "texts.txt"
    path.write_bytes(b"one\rtwo\rthree")
    with pytest.raises(EncodeError, match=r"line 1: lines end in CR alone; .* tr"):
        encoded(path)
    path.write_bytes(b"one\rtwo\nthree\r")
    assert encoded(path) == ["one\rtwo", "three"]


@pytest.mark.parametrize(
    "value", ['"\\udc00"', '{"a": "\\udc00"}', '{"\\udc00": 1}', '[[["\\ud800"]]]']
)
def test_kept_values_are_checked_too(value: str, tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(f'{{"text": "a", "id": {value}}}\n')
    with pytest.raises(EncodeError, match="line 1: id is not Unicode"):
        list(read_chunks(make_source(str(path), None, None, ["id"])))


def test_a_directory_and_a_failing_disk_are_named(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="Is a directory"):
        list(read_records(tmp_path, DatasetFormat.csv, ["text"], []))

    class Failing(io.BytesIO):
        def __next__(self) -> bytes:
            raise OSError(5, "Input/output error")

    with pytest.raises(RecordError, match=r"^x: Input/output error$"):
        list(lines_of(Failing(), "x").numbered)


def test_a_row_s_place_is_where_it_begins() -> None:
    lines = lines_of(io.BytesIO(b'text,id\n"a\nb\nc",1\n\nd,2\n'), "x.csv")
    assert [row.where for row in read_csv(lines, {})] == ["x.csv: line 2", "x.csv: line 6"]


def test_many_keys_cost_little() -> None:
    row = json.dumps({str(i): i for i in range(40_000)}).replace("}", ', "0": 1}')
    with pytest.raises(RecordError, match="the key '0' stands twice"):
        list(read_jsonl(lines_of(io.BytesIO(row.encode()), "x"), {}))


def test_quotes_mean_nothing_between_tabs() -> None:
    content = b'a\tb\n"x\t1\n"y"\t2\n\n"z ""q""\t3\n'
    rows = [row.fields["a"] for row in read_tsv(lines_of(io.BytesIO(content), "x"), {})]
    assert rows == ['"x', '"y"', '"z ""q""']
    assert [unquoted(str(row)) for row in rows] == ['"x', "y", '"z ""q""']
    assert unquoted('"say ""hi"""') == 'say "hi"'


# A retrieval collection.

Collection = Callable[..., Path]


@pytest.fixture
def collection(tmp_path: Path) -> Collection:
    """Return a function that writes two documents, a query and its judgements."""

    def write(**files: bytes) -> Path:
        content = {
            "corpus": b'{"_id": "d1", "text": "one"}\n{"_id": "d2", "text": "two"}\n',
            "queries": b'{"_id": "q1", "text": "which"}\n',
            "qrels": b"query-id\tcorpus-id\tscore\nq1\td2\t1\n",
        } | files
        (tmp_path / "qrels").mkdir()
        (tmp_path / "qrels/test.tsv").write_bytes(content["qrels"])
        for name in ("corpus", "queries"):
            (tmp_path / f"{name}.jsonl").write_bytes(content[name])
        return tmp_path

    return write


@pytest.mark.parametrize(
    ("name", "content", "seen"),
    [
        ("corpus", b'{"_id": "d1", "text": "a"}\n{"_id": "d1", "text": "b"}\n',
         "corpus.jsonl: line 2: _id 'd1' stands in line 1 too; remove"),
        ("corpus", b'{"_id": "1", "text": "a"}\n{"_id": 1, "text": "b"}\n',
         "corpus.jsonl: line 2: _id '1' stands in line 1 too"),
        ("queries", b'{"_id": "q1", "text": "a"}\n\n{"_id": "q1", "text": "a"}\n',
         "queries.jsonl: line 3: _id 'q1' stands in line 1 too"),
        ("corpus", b'{"_id": null, "text": "a"}\n', "line 1: _id is null, expected a string"),
        ("corpus", b'{"_id": "d1", "text": ["a"]}\n', "line 1: text is [\"a\"], expected"),
        ("corpus", b'{"_id": "d1", "_id": "d2", "text": "a"}\n', "line 1: the key '_id'"),
        ("qrels", b"query-id\tcorpus-id\tscore\nq\xff\td1\t1\n", "line 2: not UTF-8 (byte 2)"),
        ("qrels", "query-id\tcorpus-id\tscore\n".encode("utf-16"), "line 1: UTF-16; convert"),
        ("qrels", b"query-id\tcorpus-id\tscore\nq1\td1\t1\textra\n", "line 2: 4 fields, expected"),
        ("qrels", b"query-id\tcorpus-id\tscore\tscore\nq1\td1\t1\t0\n", "line 1: two columns"),
        ("qrels", b"query-id,corpus-id,score\nq1,d1,1\n", "separate the columns by tabs"),
        ("qrels", b"q1\t0\td1\t1\n", "line 1: no column 'query-id', it has 'q1', '0', 'd1'"),
        ("qrels", b"query-id\tcorpus-id\tscore\nq1\td1\t1\nq1\td1\t0\n", "line 3: 'q1' and 'd1'"),
        ("qrels", b"query-id\tcorpus-id\tscore\nq1\td1\t1_0\n", "line 2: score is '1_0'"),
        ("qrels", b"query-id\tcorpus-id\tscore\rq1\td1\t1\r", "line 1: lines end in CR alone"),
    ],
)  # fmt: skip
def test_a_bad_collection_is_refused_by_line(
    name: str, content: bytes, seen: str, collection: Collection
) -> None:
    with pytest.raises(DatasetError) as caught:
        read_beir(collection(**{name: content}), "test")
    assert seen in str(caught.value)


@pytest.mark.parametrize(
    "files",
    [
        {"qrels": b"\xef\xbb\xbfquery-id\tcorpus-id\tscore\r\nq1\td2\t1\r\n"},
        {"qrels": b"corpus-id\tscore\tquery-id\nd2\t1\tq1\nd2\t1\tq1\n\n"},
        {"qrels": b'"query-id"\t"corpus-id"\t"score"\n"q1"\t"d2"\t"1"\n'},
        {"queries": b'{"_id": "\\"q", "text": "which"}\n',
         "qrels": b'query-id\tcorpus-id\tscore\n"q\td2\t1\n'},
        {"queries": b'{"_id": "\\"q\\"", "text": "which"}\n',
         "qrels": b'query-id\tcorpus-id\tscore\n"q"\td2\t1\n'},
        {"queries": b'{"_id": "\\"q", "text": "which"}\n',
         "qrels": b'query-id\tcorpus-id\tscore\n"""q"\td2\t1\n'},
        {"queries": b'\xef\xbb\xbf{"_id": 7, "text": "which", "title": null}\n',
         "qrels": b"query-id\tcorpus-id\tscore\n7\td2\t1\n"},
    ],
    ids=["a mark", "a repeat", "all quoted", "begins with a quote", "in quotes",
         "quoted by a writer", "a number"],
)  # fmt: skip
def test_ids_are_taken_as_they_stand(files: dict[str, Any], collection: Collection) -> None:
    found = read_beir(collection(**files), "test")
    assert (found.queries, found.documents, found.relevant) == (
        ("which",), ("one", "two"), ({1: 1},)
    )  # fmt: skip
