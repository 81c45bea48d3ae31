"""python -m pipeline.compare: the table, the page, what cannot be compared, and errors."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from example_report import Data, executed, failed, fp32, int8, plan, speedup

from pipeline.compare import main
from pipeline.report.comparison import Line, compare


def write(directory: Path, data: Data, created: str | None = "2026-01-02T03:04:05+00:00") -> Path:
    directory.mkdir(parents=True)
    (directory / "report.json").write_text(json.dumps(data), "utf-8")
    if created:
        (directory / "manifest.json").write_text(json.dumps({"created": created}), "utf-8")
    return directory


@pytest.fixture
def shelf(tmp_path: Path) -> Path:
    """A model's directory: int8, fp32, and a rejected run."""
    write(tmp_path / "minilm/int8", int8())
    write(tmp_path / "minilm/fp32", fp32())
    write(tmp_path / "minilm/int8.rejected", failed(), created=None)
    return tmp_path / "minilm"


def lines_of(*reports: Data) -> list[Line]:
    return compare([(Path(f"at/{i}"), report, {}) for i, report in enumerate(reports)])


def measured(precision: str, speed: float, cosine: float, *, score: float = 87.0) -> Data:
    artifact = executed(speed=speed)
    artifact["throughput"]["speedup"] = speedup(speed, 0.98 * speed, 1.02 * speed)
    artifact["agreement"]["cosine"]["mean"] = cosine
    artifact["tasks"]["sample"]["artifact"] = score
    return int8() | {"precision": precision, "artifacts": [artifact]}


def test_table_and_page(shelf: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paths = sorted(str(path) for path in shelf.iterdir())
    assert main([*paths, "--html", str(shelf / "side.html")]) == 0
    out, error = capsys.readouterr()
    assert error == ""
    rows = out.splitlines()
    assert rows[0].split()[:4] == ["model", "precision", "artifact", "size"]
    assert rows[1].startswith("minilm  int8             onnxruntime   56.1 MiB  0.99953")
    assert "recall@10 87.97 (+0.08)  2.17× (2.02 to 2.34)" in rows[1]
    column = rows[0].index("size")
    assert all(row[column - 2 : column] == "  " for row in rows if row.startswith("minilm"))
    assert any("int8 (rejected)" in row and "0.72×" in row and "slower" in row for row in rows)
    assert "    rejected: onnxruntime: cosine.mean 0.963100 < 0.99; onnxruntime: tasks" in out
    assert sum("not executed: no CUDA device on this machine" in row for row in rows) == 2
    assert rows[-1] == str(shelf / "side.html")
    page = (shelf / "side.html").read_text("utf-8")
    assert "3 bundles compared" in page
    assert "2026-01-02" in page
    assert "<svg" in page
    assert "rejected: onnxruntime" in page
    assert "None" not in page


@pytest.mark.slow
def test_page_beside_the_bundles_and_its_last_one_is_no_bundle(
    shelf: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for _ in range(2):
        assert main([str(path) for path in shelf.iterdir()]) == 0
    assert (shelf / "compare.html").is_file()
    assert "skipped" not in capsys.readouterr().err


def test_what_is_no_bundle_is_skipped(shelf: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (shelf / "notes").mkdir()
    assert main([str(shelf / "notes"), str(shelf / "int8")]) == 0
    assert capsys.readouterr().err == f"skipped {shelf / 'notes'}: no report.json\n"
    assert (shelf / "compare.html").is_file()


@pytest.mark.slow
@pytest.mark.parametrize(
    "change",
    [
        lambda r: r.update(model=None),
        lambda r: r.update(precision=["x"]),
        lambda r: r.update(artifacts=[{}]),
        lambda r: r["artifacts"][0].update(throughput="fast"),
        lambda r: r.update(environment=[]),
    ],
)
def test_a_report_of_another_shape_is_skipped_by_name(
    change: Callable[[Data], object], shelf: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = int8()
    change(data)
    write(shelf / "theirs", data)
    assert main([str(shelf / "theirs"), str(shelf / "int8")]) == 0
    error = capsys.readouterr().err
    assert error.startswith(f"skipped {shelf / 'theirs'}: its report.json is not as this pipeline")
    assert error.count("\n") == 1


@pytest.mark.parametrize("name", ["report.json", "manifest.json"])
def test_a_pipe_is_not_waited_for(name: str, shelf: Path) -> None:
    (shelf / "int8" / name).unlink()
    os.mkfifo(shelf / "int8" / name)
    assert main([str(shelf / "int8")]) == (1 if name == "report.json" else 0)


def test_no_bundle_at_all(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path)]) == 1
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith(f"error: no bundle among {tmp_path}; name directories")


def test_page_that_cannot_be_written(shelf: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(shelf / "int8"), "--html", str(shelf / "no/where.html")]) == 1
    assert "name another file with --html" in capsys.readouterr().err


@pytest.mark.parametrize(("arguments", "code"), [(["--help"], 0), ([], 1), (["--no"], 1)])
def test_command_line(arguments: list[str], code: int, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == code
    assert "python -m pipeline.compare" in "".join(capsys.readouterr())


def test_slower_and_worse_is_said() -> None:
    fast, slow = lines_of(measured("int8", 2.0, 0.9990), measured("int8_max", 3.0, 0.9995))
    assert (fast.report["precision"], fast.notes) == ("int8_max", ())
    assert slow.dominated
    assert slow.notes == ("slower and worse than minilm int8_max onnxruntime",)


def test_slower_and_as_good_is_said_with_its_size() -> None:
    small = measured("fp16", 1.0, 0.9999998)
    small["artifacts"][0]["bytes"] = 2**20
    _, slow = lines_of(small, measured("fp32", 1.2, 1.0))
    assert slow.notes == (
        "slower and no better than minilm fp32 onnxruntime, but smaller (1.0 MiB against 56.1 MiB)",
    )


@pytest.mark.parametrize(
    "other",
    [
        measured("a", 3.0, 0.9980),
        measured("a", 2.05, 0.9999),
        measured("a", 3.0, 0.9999, score=86.0),
        measured("a", 3.0, 0.9999) | {"dataset_sha256": "0" * 64},
        measured("a", 3.0, 0.9999) | {"status": "failed", "failed_gates": ["x"]},
        int8() | {"artifacts": [plan()]},
    ],
    ids=["worse", "intervals overlap", "lower score", "another text", "rejected", "not executed"],
)
def test_not_dominated(other: Data) -> None:
    lines = lines_of(measured("int8", 2.0, 0.9990), other)
    assert not any(line.dominated for line in lines if line.report["precision"] == "int8")


def test_rows_that_cannot_be_compared_come_last_and_say_why() -> None:
    elsewhere = measured("fast", 9.0, 0.9999)
    elsewhere["environment"] = elsewhere["environment"] | {"cpu": "Another CPU"}
    text = measured("text", 8.0, 0.9999) | {"dataset": "mine", "dataset_sha256": "0" * 64}
    lines = lines_of(elsewhere, measured("int8", 2.0, 0.999), fp32(), text)
    assert [line.report["precision"] for line in lines] == ["int8", "fp32", "fast", "text"]
    assert [line.comparable for line in lines] == [True, True, False, False]
    assert lines[2].notes == (
        "cannot be compared with the others: another machine "
        "(Another CPU, 2 threads; the others: AMD EPYC, 2 threads)",
    )
    assert lines[3].notes == (
        "cannot be compared with the others: another data set (mine; the others: sample)",
    )


def test_only_what_compares_is_drawn(tmp_path: Path) -> None:
    data = int8() | {"precision": "int8_far", "dataset_sha256": "0" * 64}
    bundles = [
        write(tmp_path / "m" / name, report)
        for name, report in (("int8", int8()), ("fp32", fp32()), ("far", data))
    ]
    assert main([str(path) for path in bundles]) == 0
    page = (tmp_path / "m/compare.html").read_text("utf-8")
    figures = page[page.index("<svg") : page.rindex("</svg>")]
    assert ">int8<" in figures
    assert "int8_far" not in figures
    assert "int8_far" in page
