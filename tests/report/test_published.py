"""Bundles on disk: what is read beside a report, and when two reports compare."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from example_report import Data, failed, fp32, gpu, int8, plan

from pipeline.errors import BundleError
from pipeline.report.published import difference, published_beside, read_report


def write(directory: Path, data: Data) -> Path:
    directory.mkdir(parents=True)
    (directory / "report.json").write_text(json.dumps(data), "utf-8")
    return directory


def change(path: str, value: object) -> Callable[[Data], None]:
    *parents, last = path.split(".")

    def apply(data: Data) -> None:
        for parent in parents:
            data = data[parent]
        data[last] = value

    return apply


@pytest.mark.parametrize(
    ("apply", "reason"),
    [
        (change("precision", "fp16"), None),
        (change("source.weights_sha256", "0" * 64), "other weights"),
        (change("dataset_sha256", "0" * 64), "another data set"),
        (change("dataset_sha256", None), "data set not recorded"),
        (change("environment.cpu", "another"), "another machine"),
        (change("environment.gpu", {"name": "one"}), "another machine"),
        (change("reference.threads", 8), "another machine"),
        (change("reference.device", "cuda"), "another machine"),
    ],
)
def test_reports_compare_only_where_all_is_the_same(
    apply: Callable[[Data], None], reason: str | None
) -> None:
    other = int8()
    apply(other)
    assert difference(int8(), other) == reason


def test_beside_on_another_device(tmp_path: Path) -> None:
    """A ratio to PyTorch on the GPU says nothing of one to PyTorch on the CPU."""
    other = fp32()
    other["artifacts"][0]["device"] = "cuda"
    write(tmp_path / "fp32", other)
    (entry,) = published_beside(tmp_path / "int8", int8())
    assert (entry["device"], entry["comparable"]) == ("cuda", False)
    assert entry["reason"].startswith("ran on cuda")


def test_beside(tmp_path: Path) -> None:
    write(tmp_path / "int8", int8())
    write(tmp_path / "int8.rejected", failed())
    write(tmp_path / "fp16.rejected", failed() | {"precision": "fp16"})
    write(tmp_path / "fp32", fp32())
    write(tmp_path / "int8_max", int8() | {"precision": "int8_max", "dataset_sha256": "0" * 64})
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken/report.json").write_text("{")
    entries = published_beside(tmp_path / "int8", int8())
    assert [(e["precision"], e["artifact"], e["reason"]) for e in entries] == [
        ("fp32", "onnxruntime", None),
        ("int8_max", "onnxruntime", "another data set"),
    ]
    assert entries[0] == {
        "precision": "fp32",
        "artifact": "onnxruntime",
        "device": "cpu",
        "cosine_mean": 0.99999998,
        "cosine_p1": 0.99999995,
        "speedup": 1.02,
        "ci95": [0.98, 1.05],
        "task": entries[0]["task"],
        "comparable": True,
        "reason": None,
    }
    assert entries[0]["task"]["name"] == "sample"
    assert entries[0]["task"]["artifact"] == 87.97
    assert set(entries[0]["task"]) == {"name", "metric", "artifact", "delta"}


def test_beside_has_every_executed_artifact_and_the_task_of_this_report(tmp_path: Path) -> None:
    data = gpu() | {"precision": "fp16"}
    data["artifacts"].append(plan())
    mine = data["artifacts"][0]["tasks"]["sample"]
    data["artifacts"][0]["tasks"] = {"other": mine | {"artifact": 1.0}, "sample": mine}
    data["artifacts"][1]["tasks"] = {}
    write(tmp_path / "fp16", data)
    entries = published_beside(tmp_path / "int8", gpu())
    assert [entry["artifact"] for entry in entries] == ["onnxruntime", "tensorrt", "tensorrt_rtx"]
    assert entries[0]["task"]["name"] == "sample"
    assert entries[1]["task"] is None


def test_neighbour_of_another_shape_is_left_out(tmp_path: Path) -> None:
    data = fp32()
    del data["artifacts"][0]["throughput"]
    write(tmp_path / "fp32", data)
    assert published_beside(tmp_path / "int8", int8()) == []


def test_nothing_beside(tmp_path: Path) -> None:
    assert published_beside(tmp_path / "minilm/int8", int8()) == []


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "not JSON"),
        ("[1]", "not a report of this pipeline"),
        ('{"schema": 1}', "not a report of this pipeline"),
        (json.dumps(int8() | {"schema": 2}), "schema 2, expected 1"),
        ("\udcff", "not JSON"),
        (None, "no report.json"),
    ],
)
def test_no_report(tmp_path: Path, text: str | None, words: str) -> None:
    if text is not None:
        (tmp_path / "report.json").write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(BundleError, match=words):
        read_report(tmp_path)
