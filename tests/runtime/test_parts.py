"""encode --resume and --shard: killed runs go on, workers share, and the bytes are the same."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from light_bundle import write_bundle

from pipeline.contracts import OnnxModel, SourceModel
from pipeline.encode import main
from pipeline.runtime import load, parts, text_files
from pipeline.runtime.parts import Share, parse_share

TEXTS = [f"{'some ' * (i % 9)}words in text {i}" for i in range(330)]


@pytest.fixture(scope="module")
def bundle(
    tiny_source: SourceModel, tiny_fp32: OnnxModel, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    return write_bundle(tmp_path_factory.mktemp("bundle") / "tiny", tiny_source, tiny_fp32)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Parts of 64 texts, read in chunks of 16."""
    monkeypatch.setattr(parts, "PART_TEXTS", 64)
    monkeypatch.setattr(text_files, "CHUNK_ROWS", 16)


def write(path: Path, texts: list[str] = TEXTS) -> Path:
    path.write_text("".join(f"{text}\n" for text in texts))
    return path


def run(bundle: Path, given: object, out: Path, *options: str) -> None:
    assert main([str(bundle), str(given), str(out), *options]) == 0


@pytest.mark.usefixtures("small")
def test_parts_are_joined_to_what_one_run_gives(bundle: Path, tmp_path: Path) -> None:
    given = write(tmp_path / "texts.txt")
    run(bundle, given, tmp_path / "out.npy", "--resume")
    np.testing.assert_allclose(np.load(tmp_path / "out.npy"), load(bundle).encode(TEXTS), atol=2e-6)
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "out.npy",
        "out.npy.made_from.json",
        "texts.txt",
    ]


@pytest.mark.usefixtures("small")
def test_a_run_goes_on_where_another_stopped(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = write(tmp_path / "texts.txt")
    run(bundle, given, tmp_path / "whole.npy", "--resume")
    encoded: list[int] = []
    first = parts._write

    def failing(path: Path, vectors: Any) -> None:
        encoded.append(int(path.stem[-6:]))
        if len(encoded) in (3, 5):
            raise KeyboardInterrupt
        first(path, vectors)

    monkeypatch.setattr(parts, "_write", failing)
    arguments = [str(bundle), str(given), str(tmp_path / "out.npy"), "--resume"]
    assert [main(arguments) for _ in range(3)] == [130, 130, 0]
    assert encoded == [0, 1, 2, 2, 3, 3, 4, 5]
    assert (tmp_path / "out.npy").read_bytes() == (tmp_path / "whole.npy").read_bytes()


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1)])
def test_workers_share_one_file(
    order: tuple[int, ...], bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = write(tmp_path / "texts.txt")
    run(bundle, given, tmp_path / "whole.npy", "--resume")
    out = tmp_path / "out.npy"
    for worker in order[:2]:
        run(bundle, given, out, "--shard", f"{worker + 1}/3")
        assert not out.exists()
    assert "2 of 6 parts are left to other workers" in capsys.readouterr().out
    run(bundle, given, out, "--shard", f"{order[2] + 1}/3")
    assert out.read_bytes() == (tmp_path / "whole.npy").read_bytes()
    run(bundle, given, out, "--shard", f"{order[0] + 1}/3")
    assert "there already" in capsys.readouterr().out


@pytest.mark.usefixtures("small")
def test_workers_share_files(bundle: Path, tmp_path: Path) -> None:
    for i in range(3):
        write(tmp_path / f"texts-{i}.txt", TEXTS[110 * i : 110 * (i + 1)])
    out = tmp_path / "out"
    run(bundle, tmp_path / "texts-*.txt", out, "--shard", "1/2")
    assert sorted(p.name for p in out.glob("*.npy")) == ["texts-0.npy", "texts-2.npy"]
    run(bundle, tmp_path / "texts-*.txt", out, "--shard", "2/2")
    together = np.concatenate([np.load(out / f"texts-{i}.npy") for i in range(3)])
    np.testing.assert_allclose(together, load(bundle).encode(TEXTS), atol=2e-6)


@pytest.mark.usefixtures("small")
def test_kept_columns_stay_with_their_rows(bundle: Path, tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    given = tmp_path / "rows.jsonl"
    rows = [{"text": text, "key": f"k{i}"} for i, text in enumerate(TEXTS)]
    given.write_text("".join(json.dumps(row) + "\n" for row in rows))
    run(bundle, given, tmp_path / "out.parquet", "--resume", "--ids", "key")
    table = parquet.read_table(tmp_path / "out.parquet")
    assert table["id"].to_pylist() == [f"k{i}" for i in range(len(TEXTS))]
    assert table.num_rows == len(TEXTS)


@pytest.mark.usefixtures("small")
def test_what_was_made_from_something_else_is_not_taken(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = write(tmp_path / "texts.txt")
    out = tmp_path / "out.npy"
    run(bundle, given, out, "--resume")
    assert main([str(bundle), str(given), str(out), "--resume", "--truncate-dim", "8"]) == 1
    assert "made from other text or with other options" in capsys.readouterr().err
    run(bundle, given, out, "--resume", "--truncate-dim", "8", "--overwrite")
    assert np.load(out).shape == (len(TEXTS), 8)
    write(given, TEXTS[1:])
    run(bundle, given, tmp_path / "other.npy", "--shard", "1/2")
    write(given, TEXTS)
    assert main([str(bundle), str(given), str(tmp_path / "other.npy"), "--resume"]) == 1
    assert "parts made from other text" in capsys.readouterr().err


def test_a_file_without_texts(bundle: Path, tmp_path: Path) -> None:
    run(bundle, write(tmp_path / "texts.txt", []), tmp_path / "out.npy", "--resume")
    assert np.load(tmp_path / "out.npy").shape == (0, 32)


@pytest.mark.parametrize("words", ["0/2", "3/2", "1", "a/b", "1/0"])
def test_shares_that_are_none(words: str) -> None:
    with pytest.raises(ValueError, match="expected I/N"):
        parse_share(words)
    assert parse_share("2/4") == Share(index=1, count=4)


def test_patterns_and_stdin(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for given, options, message in (
        (str(tmp_path / "*.txt"), [], "no file matches"),
        ("-", ["--format", "txt", "--resume"], "stdin is not read twice"),
    ):
        assert main([str(bundle), given, str(tmp_path / "out.npy"), *options]) == 1
        assert message in capsys.readouterr().err


KILLED = """
import sys
from pipeline.runtime import parts, text_files
parts.PART_TEXTS, text_files.CHUNK_ROWS = 256, 64
from pipeline.encode import main
sys.exit(main())
"""


@pytest.mark.slow
def test_a_run_killed_three_times_ends_with_the_same_bytes(bundle: Path, tmp_path: Path) -> None:
    given = write(
        tmp_path / "texts.txt", [f"{text} again {i}" for i in range(20) for text in TEXTS]
    )

    def start(out: Path) -> "subprocess.Popen[bytes]":
        command = [sys.executable, "-c", KILLED, str(bundle), str(given), str(out), "--resume"]
        return subprocess.Popen(command, env=os.environ | {"PYTHONPATH": str(Path.cwd())})

    assert start(tmp_path / "whole.npy").wait(120) == 0
    out, killed = tmp_path / "out.npy", 0
    for least in (1, 8, 16):
        process = start(out)
        while process.poll() is None:
            if len(list((tmp_path / "out.npy.parts").glob("part-*.npy"))) >= least:
                process.send_signal(signal.SIGKILL)
                killed += process.wait(60) == -signal.SIGKILL
                break
            time.sleep(0.002)
    assert killed == 3
    assert not out.exists()
    assert start(out).wait(120) == 0
    assert out.read_bytes() == (tmp_path / "whole.npy").read_bytes()
