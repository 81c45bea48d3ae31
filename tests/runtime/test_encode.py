"""python -m pipeline.encode: every format in and out, whole or not at all."""

import csv
import errno
import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import command_line
import numpy as np
import pytest
from light_bundle import write_bundle
from rich.console import Console

from pipeline.contracts import OnnxModel, SourceModel
from pipeline.encode import main
from pipeline.runtime import load, text_files
from pipeline.runtime.encoder import TextEncoder
from pipeline.runtime.vector_files import NpyWriter

TEXTS = [
    "one",
    "",
    "two, with a comma",
    'a "quoted" word',
    "über 日本語 🙂",
    "nul \x00 inside",
    "x" * 9000,
]

Run = Callable[..., Path]


@pytest.fixture(scope="module")
def bundle(
    tiny_source: SourceModel, tiny_fp32: OnnxModel, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The tiny model's bundle."""
    return write_bundle(tmp_path_factory.mktemp("bundle") / "tiny", tiny_source, tiny_fp32)


@pytest.fixture(scope="module")
def encoder(bundle: Path) -> TextEncoder:
    """The tiny model."""
    return load(bundle)


@pytest.fixture
def run(bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    """Return a function that encodes a file into ``tmp_path`` and gives the output's path."""

    def encode(given: Path | str, output: str = "out.npy", *options: str) -> Path:
        code = main([str(bundle), str(given), str(tmp_path / output), *options])
        assert code == 0, capsys.readouterr().err
        return tmp_path / output

    return encode


@pytest.fixture
def refuse(bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Return a function that encodes in vain and gives the one line of complaint."""

    def encode(given: Path | str, output: str = "out.npy", *options: str) -> str:
        before = set(tmp_path.iterdir())
        assert main([str(bundle), str(given), str(tmp_path / output), *options]) == 1
        assert set(tmp_path.iterdir()) == before
        message = capsys.readouterr().err
        assert message.startswith("error: ")
        assert message.count("\n") == 1
        return message

    return encode


def write(path: Path, texts: Sequence[str]) -> Path:
    """Write texts in the format that the path's suffix names, with an id and a score beside."""
    rows = [{"id": i, "text": text, "score": i / 2} for i, text in enumerate(texts)]
    if path.suffix == ".txt":
        path.write_bytes("".join(f"{text}\n" for text in texts).encode())
    elif path.suffix == ".jsonl":
        path.write_text("\n".join(json.dumps(row) for row in rows), "utf-8")
    elif path.suffix == ".csv":
        with path.open("w", encoding="utf-8", newline="") as stream:
            writer = csv.DictWriter(stream, ["id", "text", "score"])
            writer.writeheader()
            writer.writerows(rows)
    else:
        pa = pytest.importorskip("pyarrow")
        import pyarrow.parquet as pq

        pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=3)
    return path


def read_parquet(path: Path) -> Any:
    pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    return pq.read_table(path)


# Formats.


@pytest.mark.many
@pytest.mark.parametrize("suffix", [".txt", ".jsonl", ".csv", ".parquet"])
@pytest.mark.parametrize("rows", [2, 4096])
def test_every_format_in(
    suffix: str,
    rows: int,
    run: Run,
    encoder: TextEncoder,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(text_files, "CHUNK_ROWS", rows)
    vectors = np.load(run(write(tmp_path / f"texts{suffix}", TEXTS)))
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(vectors, encoder.encode(TEXTS), atol=1e-5)


@pytest.mark.many
@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".parquet"])
def test_parquet_out_keeps_columns(
    suffix: str, run: Run, encoder: TextEncoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(text_files, "CHUNK_ROWS", 3)
    given = write(tmp_path / f"texts{suffix}", TEXTS)
    table = read_parquet(run(given, "out.parquet", "--keep", "score,text"))
    assert table.column_names == ["score", "text", "embedding"]
    assert table["text"].to_pylist() == TEXTS
    scores = [i / 2 for i in range(len(TEXTS))]
    expected = [str(score) for score in scores] if suffix == ".csv" else scores
    assert table["score"].to_pylist() == expected
    assert str(table.schema.field("embedding").type) == "fixed_size_list<element: float>[32]"
    vectors = np.array(table["embedding"].to_pylist(), np.float32)
    np.testing.assert_allclose(vectors, encoder.encode(TEXTS), atol=1e-5)


def test_stdin(run: Run, encoder: TextEncoder, monkeypatch: pytest.MonkeyPatch) -> None:
    stdin = SimpleNamespace(buffer=io.BytesIO(b"one\ntwo"))
    monkeypatch.setattr(sys, "stdin", stdin)
    vectors = np.load(run("-", "out.npy", "--format", "txt"))
    np.testing.assert_allclose(vectors, encoder.encode(["one", "two"]), atol=1e-5)


def test_lines_end_at_newlines_only(tmp_path: Path) -> None:
    path = tmp_path / "texts.txt"
    path.write_bytes("\ufeffone\r\n\r\ntwo\u2028lines\rin \ufeffone\nlast".encode())
    chunks = text_files.read_chunks(text_files.make_source(str(path), None, None, ()))
    texts = [text for chunk in chunks for text in chunk.texts]
    assert texts == ["one", "", "two\u2028lines\rin \ufeffone", "last"]


@pytest.mark.slow
def test_options_reach_the_encoder(run: Run, encoder: TextEncoder, tmp_path: Path) -> None:
    given = write(tmp_path / "texts.txt", TEXTS)
    options = ["--truncate-dim", "20", "--normalize", "--prompt", "ask: ", "--precision", "ubinary"]
    expected = encoder.encode(
        TEXTS, truncate_dim=20, normalize_embeddings=True, prompt="ask: ", precision="ubinary"
    )
    np.testing.assert_array_equal(np.load(run(given, "out.npy", *options)), expected)
    table = read_parquet(run(given, "out.parquet", *options))
    assert str(table.schema.field("embedding").type) == "fixed_size_list<element: uint8>[3]"
    assert np.load(run(given, "half.npy", "--precision", "float16")).dtype == np.float16


@pytest.mark.slow
def test_int8_steps_come_from_a_file(run: Run, encoder: TextEncoder, tmp_path: Path) -> None:
    given = write(tmp_path / "texts.txt", TEXTS)
    floats = encoder.encode([f"text {i}" for i in range(200)])
    ranges = np.stack((floats.min(axis=0), floats.max(axis=0)))
    for name, content in (("vectors.npy", floats), ("ranges.npy", ranges)):
        np.save(tmp_path / name, content)
        options = ["--precision", "int8", "--ranges", str(tmp_path / name)]
        vectors = np.load(run(given, f"{name}.out.npy", *options))
        expected = encoder.encode(TEXTS, precision="int8", ranges=ranges)
        assert np.abs(vectors.astype(int) - expected.astype(int)).max() <= 1


@pytest.mark.many
@pytest.mark.parametrize("suffix", [".txt", ".jsonl", ".csv", ".parquet"])
def test_a_file_without_texts(suffix: str, run: Run, tmp_path: Path) -> None:
    if suffix == ".parquet":
        pa = pytest.importorskip("pyarrow")
        import pyarrow.parquet as pq

        given = tmp_path / "texts.parquet"
        pq.write_table(pa.table({"text": pa.array([], pa.string()), "id": pa.array([])}), given)
    else:
        given = write(tmp_path / f"texts{suffix}", [])
    vectors = np.load(run(given))
    assert (vectors.shape, vectors.dtype) == ((0, 32), np.float32)
    keep = [] if suffix == ".txt" else ["--keep", "id"]
    table = read_parquet(run(given, "out.parquet", *keep))
    assert table.num_rows == 0
    assert table.column_names[-1] == "embedding"


def test_the_header_of_npy_grows_in_place(tmp_path: Path) -> None:
    path = tmp_path / "vectors.npy"
    with path.open("wb") as stream:
        writer = NpyWriter(stream)
        writer.write(np.zeros((3, 7), np.float32), {})
        writer.write(np.zeros((10**15 - 3, 0), np.float32), {})  # rows that take no room
        writer.finish(np.zeros((0, 7), np.float32), [])
    with path.open("rb") as stream:
        np.lib.format.read_magic(stream)
        assert np.lib.format.read_array_header_1_0(stream)[0] == (10**15, 7)
        assert len(stream.read()) == 3 * 7 * 4


# Bad input.


@pytest.mark.many
@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("bad.txt", b"good\nbad \xff\n", "line 2: not UTF-8 (byte 5)"),
        ("bad.jsonl", b'{"text": "a"}\n\n{"text": \n', "line 3: not JSON"),
        ("bad.jsonl", b'["text"]\n', "line 1: expected an object"),
        ("bad.jsonl", b'{"text": 5}\n', "line 1: text is 5, expected a string"),
        ("bad.jsonl", b'{"title": "a", "id": 1}\n', "'text', it has 'title', 'id'; set --column"),
        ("bad.jsonl", b'{"text": "\\ud83d"}\n', "line 1: text is not Unicode"),
        ("bad.jsonl", b'{"text": ' + b"[" * 100_000, "line 1: n"),
        (
            "bad.csv",
            b"id,body\n1,a\n",
            "line 1: no column 'text', it has 'id', 'body'; set --column",
        ),
        ("bad.csv", b"id,text\n1,a\n2\n", "line 3: 1 field, expected 2"),
        ("bad.csv", b'text\n"a" b\n', "line 2: not readable as csv"),
        ("bad.csv", b'text\n"never ends\n', "not readable as csv"),
        ("bad.parquet", b"PAR1 and no more", "not readable as parquet"),
    ],
)
def test_a_bad_line_is_named(
    name: str, content: bytes, message: str, refuse: Callable[..., str], tmp_path: Path
) -> None:
    if name.endswith(".parquet"):
        pytest.importorskip("pyarrow")
    (tmp_path / name).write_bytes(content)
    complaint = refuse(tmp_path / name)
    assert message in complaint
    assert name in complaint


@pytest.mark.slow
def test_bad_columns_of_parquet(refuse: Callable[..., str], tmp_path: Path) -> None:
    given = write(tmp_path / "texts.parquet", TEXTS)
    assert "no column 'body', it has 'id', 'text', 'score'; set --column" in refuse(
        given, "out.npy", "--column", "body"
    )
    assert "no column 'name'" in refuse(given, "out.parquet", "--keep", "name")
    assert "column 'id' is int64, expected strings" in refuse(given, "out.npy", "--column", "id")
    content = given.read_bytes()
    given.write_bytes(content[: len(content) // 2])
    assert "texts.parquet: not readable as parquet" in refuse(given)


def test_a_column_of_parquet_that_stands_twice(refuse: Callable[..., str], tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    table = pa.table([pa.array(["a"]), pa.array(["b"])], names=["text", "text"])
    pq.write_table(table, tmp_path / "texts.parquet")
    assert "two columns are named 'text'" in refuse(tmp_path / "texts.parquet")


@pytest.mark.many
@pytest.mark.parametrize("kind", ["string", "large_string", "dictionary"])
def test_kinds_of_strings_in_parquet(
    kind: str, run: Run, refuse: Callable[..., str], encoder: TextEncoder, tmp_path: Path
) -> None:
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    texts = pa.array(TEXTS)
    texts = texts.dictionary_encode() if kind == "dictionary" else texts.cast(kind)
    table = pa.table({"text": texts, "lists": [["a"]] * len(TEXTS)})
    pq.write_table(table, tmp_path / "texts.parquet")
    vectors = np.load(run(tmp_path / "texts.parquet"))
    np.testing.assert_allclose(vectors, encoder.encode(TEXTS), atol=1e-5)
    assert "expected strings" in refuse(tmp_path / "texts.parquet", "o.npy", "--column", "lists")


def test_a_null_in_parquet(refuse: Callable[..., str], tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"text": ["a", "b", None]}), tmp_path / "texts.parquet")
    assert "row 3: text is null" in refuse(tmp_path / "texts.parquet")


def test_values_of_several_types(
    refuse: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("pyarrow")
    monkeypatch.setattr(text_files, "CHUNK_ROWS", 1)
    (tmp_path / "a.jsonl").write_text('{"text": "a", "id": 1}\n{"text": "b", "id": "x"}\n')
    message = refuse(tmp_path / "a.jsonl", "out.parquet", "--keep", "id")
    assert "column 'id' holds values of several types" in message


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("1180591620717411303424", "'id' holds a number of more than 64 bits"),
        ("{}", "a kept column does not go into parquet: "),
    ],
)
def test_values_that_parquet_has_not(
    value: str, message: str, refuse: Callable[..., str], tmp_path: Path
) -> None:
    pytest.importorskip("pyarrow")
    path = tmp_path / "a.jsonl"
    path.write_text(f'{{"text": "a", "id": {value}}}\n')
    assert message in refuse(path, "out.parquet", "--keep", "id")


def test_a_pipe_says_how_it_is_read(refuse: Callable[..., str], tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.txt")
    assert "a.txt: a pipe: give - and its text" in refuse(tmp_path / "a.txt", "out.npy")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--column", "text"], "txt has no columns"),
        (["--keep", "id"], "npy holds vectors only"),
        (["--engine", "tensor"], "engine 'tensor': expected one of auto"),
        (["--prompt-name", "qeury"], "prompt name 'qeury'"),
        (["--truncate-dim", "33"], "truncate_dim=33: expected 1 to 32"),
        (["--precision", "int8"], "publish it again, or give --ranges FILE"),
        (["--ranges", "none.npy"], "--ranges none.npy: "),
    ],
)
def test_options_that_do_not_fit(
    options: list[str], message: str, refuse: Callable[..., str], tmp_path: Path
) -> None:
    assert message in refuse(write(tmp_path / "texts.txt", TEXTS), "out.npy", *options)


def test_ranges_of_another_model(refuse: Callable[..., str], tmp_path: Path) -> None:
    given = write(tmp_path / "texts.txt", TEXTS)
    np.save(tmp_path / "ranges.npy", np.zeros((2, 5), np.float32))
    message = refuse(
        given, "o.npy", "--precision", "int8", "--ranges", str(tmp_path / "ranges.npy")
    )
    assert "[2, 5]: expected [2, 32]" in message
    np.save(tmp_path / "ranges.npy", np.zeros((2, 32), np.int8))
    message = refuse(
        given, "o.npy", "--precision", "int8", "--ranges", str(tmp_path / "ranges.npy")
    )
    assert "int8, expected floats" in message


def test_files_that_are_not_there_or_not_known(
    refuse: Callable[..., str], tmp_path: Path, bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = write(tmp_path / "texts.txt", TEXTS)
    assert "none.txt: no such file" in refuse(tmp_path / "none.txt")
    (tmp_path / "texts.tab").write_text("a")
    assert "texts.tab: format not known; give --format" in refuse(tmp_path / "texts.tab")
    assert "-: format not known; give --format" in refuse("-")
    assert "parquet is not read from a stream" in refuse("-", "o.npy", "--format", "parquet")
    assert "ends in .npy, .parquet, .usearch or .faiss" in refuse(given, "out.bin")
    assert "cannot write" in refuse(given, "none/out.npy")
    named = write(tmp_path / "texts.jsonl", TEXTS)
    assert "npy holds vectors only" in refuse(named, "out.npy", "--keep", "id")
    assert "--keep embedding" in refuse(named, "out.parquet", "--keep", "embedding")
    assert main([str(tmp_path / "none"), str(given), str(tmp_path / "out.npy")]) == 1
    assert "not a bundle" in capsys.readouterr().err
    assert main([str(bundle), str(given)]) == 1


# Whole or not at all.


def test_overwrites_only_when_told_to(
    run: Run, refuse: Callable[..., str], tmp_path: Path, encoder: TextEncoder
) -> None:
    given = write(tmp_path / "texts.txt", TEXTS)
    (tmp_path / "out.npy").write_bytes(b"precious")
    assert "out.npy: exists; give --overwrite" in refuse(given)
    (tmp_path / "bad.txt").write_bytes(b"\xff")
    assert "not UTF-8" in refuse(tmp_path / "bad.txt", "out.npy", "--overwrite")
    assert (tmp_path / "out.npy").read_bytes() == b"precious"
    assert len(np.load(run(given, "out.npy", "--overwrite"))) == len(TEXTS)
    (tmp_path / "folder.npy").mkdir()
    assert "name a file" in refuse(given, "folder.npy", "--overwrite")


def test_full_disk(
    refuse: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(NpyWriter, "write", full)
    message = refuse(write(tmp_path / "texts.txt", TEXTS))
    assert "cannot write" in message
    assert "No space left on device" in message


@pytest.mark.slow
@pytest.mark.parametrize(
    ("output", "sent", "code"),
    [
        ("out.npy", signal.SIGTERM, 143),
        ("out.npy", signal.SIGINT, 130),
        ("out.npy", signal.SIGKILL, -9),
        ("out.parquet", signal.SIGTERM, 143),
    ],
)
def test_interrupted(
    output: str, sent: signal.Signals, code: int, bundle: Path, tmp_path: Path
) -> None:
    """Killed with a chunk written and more to come; SIGKILL leaves the hidden file, no more."""
    if output.endswith(".parquet"):
        pytest.importorskip("pyarrow")
    # A shell's background jobs inherit an ignored SIGINT; a handler here is the default in a child.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    with subprocess.Popen(
        [sys.executable, "-m", "pipeline.encode", bundle, "-", output, "--format", "txt"],
        cwd=tmp_path,
        env=command_line.environment(),
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdin is not None
        # More than is read ahead, so that some of it is written.
        process.stdin.write("".join(f"text {i}\n" for i in range(30_000)).encode())
        process.stdin.flush()
        deadline = time.monotonic() + 60
        while not any(path.stat().st_size for path in tmp_path.iterdir()):
            assert time.monotonic() < deadline
            assert process.poll() is None
            time.sleep(0.02)
        signal.signal(signal.SIGINT, before)
        process.send_signal(sent)
        process.wait(60)
    assert process.returncode == code
    left = [path.name for path in tmp_path.iterdir()]
    assert len(left) == (sent is signal.SIGKILL)
    assert all(name.startswith(f".{output}.{process.pid}-") for name in left)


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_nothing_heavy_is_imported(engine: str, bundle: Path, tmp_path: Path) -> None:
    if engine == "openvino":
        pytest.importorskip("openvino")
    code = (
        "import sys; from pipeline.encode import main; main(sys.argv[1:]); "
        "print({'torch', 'transformers', 'pyarrow', 'rich', 'onnx'} & set(sys.modules))"
    )
    given = write(tmp_path / "texts.txt", TEXTS)
    done = subprocess.run(
        [sys.executable, "-c", code, bundle, given, tmp_path / "out.npy", "--engine", engine],
        env=command_line.environment(),
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.splitlines()[-1] == "set()"


def test_progress(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    screen = io.StringIO()
    monkeypatch.setattr("pipeline.progress.console", Console(file=screen, force_terminal=True))
    run(write(tmp_path / "texts.txt", TEXTS), "out.npy", "--progress")
    assert "7/" in screen.getvalue()
    assert "7 vectors, 32 × float32" in capsys.readouterr().out
