"""python -m pipeline: exit codes, one-line errors, and what a run leaves behind."""

import importlib.util
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import NoneType
from typing import Any
from xml.etree import ElementTree as ET

import command_line
import pytest

from pipeline.contracts import graph_sha256, sha256_file
from pipeline.engines.gpu import find_gpu

Completed = subprocess.CompletedProcess[str]


def error_line(done: Completed, cwd: Path, *words: str) -> str:
    """Check that a run failed with one line that holds ``words`` and published nothing."""
    assert done.returncode == 1, done.stderr
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    *before, last = done.stderr.rstrip("\n").split("\n")
    assert last.startswith("error: ")
    assert "internal error" not in last
    assert all(not line.startswith("error: ") for line in before)
    for word in words:
        assert word in last
    assert list((cwd / "artifacts").glob("[!.]*")) == []
    assert list((cwd / "artifacts").glob(".staging/*")) == []
    return last


# Composition: nothing heavy is imported.


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (
            ["model=minilmm"],
            ["model=minilmm", "did you mean minilm?", "bge-base-en-v1.5, bge-large-en-v1.5"],
        ),
        (
            ["precision=int3"],
            ["precision=int3", "did you mean int8?", "bf16, fp16, fp32, fp8, fp8_max, int8"],
        ),
        (["precison=int8"], ["precison", "did you mean precision?"]),
        (["+precison=int8"], ["precison", "did you mean precision?"]),
        (["validate.batch_sze=4"], ["validate.batch_sze", "did you mean batch_size?"]),
        (["+validate.batch_sze=4"], ["validate.batch_sze", "did you mean batch_size?"]),
        (["validate.batch_size=abc"], ["validate.batch_size", "'abc'", "Integer"]),
        (["validate.gates.cosine_mean.int8=high"], ["cosine_mean.int8", "'high'", "Float"]),
        (["engine.runtime=cuda"], ["engine.runtime", "'cuda'", "auto", "tensorrt_rtx"]),
        (["model=custom"], ["model.name", "add model.name="]),
        (["validate.gates.cosine_meen.int8=1"], ["validate.gates.cosine_meen", "cosine_mean"]),
        (["int8"], ["'int8'", "KEY=VALUE"]),
        (["model.name=../up"], ["model.name", "'../up'", "expected letters, digits"]),
    ],
    ids=lambda value: value[0] if isinstance(value, list) and "=" in value[0] else None,
)
def test_composition_error(tmp_path: Path, arguments: list[str], words: list[str]) -> None:
    done = command_line.run_command(*arguments, cwd=tmp_path)
    line = error_line(done, tmp_path, *words)
    assert done.stderr == f"{line}\n"
    assert "provider=" not in line


MODULES = 450
"""What --help may import: 325 or so with Python 3.12. Counted, since seconds say how busy it is."""


def test_help(tmp_path: Path) -> None:
    done = command_line.run_command("--help", cwd=tmp_path)
    assert done.returncode == 0
    assert done.stderr == ""
    models = next(line for line in done.stdout.splitlines() if line.startswith("model: "))
    assert {"custom", "minilm", "mpnet"} <= set(models.removeprefix("model: ").split(", "))
    precisions = "auto, bf16, fp16, fp32, fp8, fp8_max, int8, int8_fast, int8_max"
    assert f"precision: {precisions}\n" in done.stdout
    assert "dataset: beir, csv, jsonl, mteb, sample\n" in done.stdout
    assert "engine: auto, onnxruntime, tensorrt, tensorrt_rtx\n" in done.stdout
    assert "Exit codes: 0 published, 1 an error" in done.stdout
    assert list(tmp_path.iterdir()) == []


def test_help_imports_nothing_heavy(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "pipeline", "--help"],
        cwd=tmp_path,
        env=command_line.environment(),
        capture_output=True,
        text=True,
        check=True,
    )
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "pipeline.config" in imported
    assert len(imported) < MODULES
    heavy = {"torch", "transformers", "sentence_transformers", "onnx", "onnxruntime", "tensorrt"}
    assert imported & heavy == set()


# Errors of the flow: the first group ends before a model is loaded.


def test_missing_dataset(tmp_path: Path) -> None:
    done = command_line.run_command("dataset=csv", "dataset.path=nowhere.csv", cwd=tmp_path)
    error_line(done, tmp_path, "dataset.path=nowhere.csv", "no such file")


def test_csv_without_the_column(tmp_path: Path) -> None:
    (tmp_path / "mine.csv").write_text("left,sentence2,score\na cat,a dog,3\n")
    done = command_line.run_command("dataset=csv", "dataset.path=mine.csv", cwd=tmp_path)
    error_line(done, tmp_path, "mine.csv", "'sentence1'", "'left'", "set the dataset.*_column keys")


@pytest.mark.parametrize("place", ["file/artifacts", "/proc/nope"])
def test_unwritable_artifacts(tmp_path: Path, place: str) -> None:
    (tmp_path / "file").write_text("not a directory")
    done = command_line.run_command(f"artifacts_dir={place}", cwd=tmp_path)
    error_line(done, tmp_path, f"cannot write {place}", "set artifacts_dir to")


def test_damaged_weights(tmp_path: Path, tiny_dir: Path) -> None:
    model = shutil.copytree(tiny_dir, tmp_path / "model")
    weights = model / "model.safetensors"
    expected = sha256_file(weights)
    content = bytearray(weights.read_bytes())
    content[-5] ^= 0x01
    weights.write_bytes(content)
    done = command_line.run_command(
        *command_line.settings(model), f"model.weights_sha256={expected}", cwd=tmp_path
    )
    error_line(
        done,
        tmp_path,
        str(model),
        sha256_file(weights),
        f"expected {expected}",
        "set model.weights_sha256",
    )


def test_buckets_beyond_the_model(tmp_path: Path, tiny_dir: Path) -> None:
    done = command_line.run_command(
        *command_line.settings(tiny_dir), "engine.sequence_buckets=[32,64]", cwd=tmp_path
    )
    error_line(
        done, tmp_path, "engine.sequence_buckets=[32, 64]", "max length of 48", "end with 48"
    )


def test_nan_weight(tmp_path: Path, make_tiny: Callable[..., Path]) -> None:
    def poison(bert: Any) -> None:
        bert.encoder.layer[1].output.dense.weight[3, 5] = float("nan")

    done = command_line.run_command(*command_line.settings(make_tiny(poison)), cwd=tmp_path)
    error_line(
        done, tmp_path, "encoder.layer.1.output.dense.weight", "NaN", "point model.directory at"
    )


# Whole runs.


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where this module's good runs publish."""
    return tmp_path_factory.mktemp("workplace")


@pytest.fixture(scope="module")
def run_tiny(workplace: Path, tiny_dir: Path) -> Callable[..., Completed]:
    """Return a function that runs the tiny model at a precision, in ``workplace``."""

    def run(precision: str, *more: str) -> Completed:
        return command_line.run_command(
            *command_line.settings(tiny_dir), f"precision={precision}", *more, cwd=workplace
        )

    return run


@pytest.fixture(scope="module", params=["fp32", "fp16", "int8"])
def published(
    request: pytest.FixtureRequest, workplace: Path, run_tiny: Callable[..., Completed]
) -> Path:
    """The bundle of a run that ended well, at each precision."""
    done = run_tiny(request.param, *command_line.ANY_INT8)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[0] == f"tiny {request.param}: passed"
    assert done.stdout.splitlines()[-1] == f"published artifacts/tiny/{request.param}"
    return workplace / "artifacts" / "tiny" / str(request.param)


def refuse_constant(name: str) -> float:
    raise AssertionError(f"{name} is not JSON")


def read_json(path: Path) -> Any:
    return json.loads(path.read_text("utf-8"), parse_constant=refuse_constant)


NUMBER = (int, float)
GROUP = {"n": int, "mean": NUMBER, "min": NUMBER}
RANGE = {"min": NUMBER, "max": NUMBER}
AGREEMENT = {
    "n": int,
    "cosine": {"mean": NUMBER, "p1": NUMBER, "min": NUMBER, "ci95": {"mean": [NUMBER]}},
    "neighbor_overlap_at_10": NUMBER,
    "neighbor_overlap": {"1": NUMBER, "10": NUMBER},
    "histogram": {"edges": [NUMBER], "counts": [int]},
    "by_length": [GROUP | {"tokens": [int]}],
    "by_kind": [GROUP | {"kind": str}],
    "worst": [{"text": str, "tokens": int, "kind": str, "cosine": NUMBER}],
    "checks": {"nan": int, "zero": int, "norm": RANGE, "reference_norm": RANGE},
    "invariance": {"n": int, "batch": NUMBER, "padding": NUMBER, "move": NUMBER},
}
METRIC = {"reference": NUMBER, "artifact": NUMBER, "delta": NUMBER, "ci95": [NUMBER]}
RETRIEVAL = METRIC | {
    "metric": str,
    "n": int,
    "metrics": {"ndcg_at_10": METRIC, "recall_at_10": METRIC, "mrr_at_10": METRIC},
}
SEARCH = {
    "queries": int,
    "documents": int,
    "among_themselves": bool,
    "matryoshka": bool,
    "oversampling": int,
    "vectors": [
        {
            "form": str,
            "dimensions": int,
            "bytes": int,
            "bytes_stored": int,
            "recall_at_10": NUMBER,
            "recall_ci95": [NUMBER],
            "ndcg_at_10": NoneType,
        }
    ],
}
EXECUTED = {
    "name": str,
    "file": str,
    "bytes": int,
    "executed": bool,
    "device": str,
    "agreement": AGREEMENT,
    "tasks": {"sample": RETRIEVAL},
    "search": SEARCH,
    "throughput": {
        "sentences_per_second": NUMBER,
        "reference_sentences_per_second": NUMBER,
        "speedup": {"median": NUMBER, "ci95": [NUMBER], "verdict": str},
        "rounds": int,
        "texts": int,
        "mean_tokens": NUMBER,
        "with_tokenization": {
            "sentences_per_second": NUMBER,
            "reference_sentences_per_second": NUMBER,
            "speedup": {"median": NUMBER, "ci95": [NUMBER], "verdict": str},
            "rounds": int,
        },
        "grid": [{"batch": int, "sequence": int}],
    },
    "latency_ms": {"batch": int, "p50": NUMBER, "p95": NoneType, "p99": NoneType, "n": int},
    "cold": NoneType,
    "gates": [
        {"name": str, "threshold": NUMBER, "observed": NUMBER, "passed": bool, "setting": str}
    ],
}
NOT_EXECUTED = {"name": str, "file": str, "bytes": int, "executed": bool, "reason": str}
REPORT = {
    "schema": int,
    "model": str,
    "precision": str,
    "status": str,
    "dataset_sha256": str,
    "reference": {
        "framework": str,
        "dtype": str,
        "device": str,
        "threads": int,
        "latency_ms": {"batch": int, "p50": NUMBER, "n": int},
        "cold": NoneType,
        "search": SEARCH,
    },
    "baselines": [{"name": str, "executed": bool}],
    "artifacts": list,
    "stages": [{"name": str, "seconds": NUMBER, "cached": bool}],
    "environment": dict,
}
QUANTIZATION = {
    "gemms": int,
    "gemms_int8": int,
    "method": str,
    "calibration": {"sentences": int, "sha256": str},
}


def check_shape(value: Any, shape: Any, where: str = "report") -> None:
    """Check that ``value`` has every key of ``shape``, with its type; more keys are allowed."""
    if isinstance(shape, Mapping):
        assert isinstance(value, dict), where
        for key, inner in shape.items():
            assert key in value, f"{where}.{key}"
            check_shape(value[key], inner, f"{where}.{key}")
    elif isinstance(shape, list):
        assert isinstance(value, list), where
        assert value, where
        for i, item in enumerate(value):
            check_shape(item, shape[0], f"{where}[{i}]")
    else:
        assert isinstance(value, shape), where
        assert shape is bool or not isinstance(value, bool), where


def test_report_has_the_schema(published: Path) -> None:
    report = read_json(published / "report.json")
    check_shape(report, REPORT)
    assert (report["schema"], report["model"], report["status"]) == (1, "tiny", "passed")
    assert report["precision"] == published.name
    assert ("quantization" in report) == (published.name == "int8")
    if published.name == "int8":
        check_shape(report["quantization"], QUANTIZATION)
        assert report["quantization"]["gemms"] == report["quantization"]["gemms_int8"] == 12
        assert report["quantization"]["calibration"]["sentences"] == 40
    for artifact in report["artifacts"]:
        check_shape(artifact, EXECUTED if artifact["executed"] else NOT_EXECUTED)
        assert (published / artifact["file"]).stat().st_size == artifact["bytes"]
    onnx = report["artifacts"][0]
    assert (onnx["name"], onnx["file"], onnx["executed"]) == ("onnxruntime", "model.onnx", True)
    agreement = onnx["agreement"]
    assert agreement["n"] == sum(agreement["histogram"]["counts"]) == 40
    assert sum(group["n"] for group in agreement["by_kind"]) == 40
    assert [group["tokens"] for group in agreement["by_length"]][-1] == [33, 48]
    assert agreement["worst"][0]["cosine"] == agreement["cosine"]["min"]
    assert min(agreement["invariance"]["batch"], agreement["invariance"]["padding"]) > 0.9999
    assert 0 <= agreement["invariance"]["move"] < 1e-3
    assert onnx["gates"][0]["passed"] is True
    assert len(onnx["throughput"]["grid"]) == 2
    baselines = {baseline["name"]: baseline for baseline in report["baselines"]}
    assert set(baselines) == {"onnxruntime_fp32"}
    assert baselines["onnxruntime_fp32"]["executed"] is True
    assert len(onnx["throughput"]["speedup"]["ci95"]) == 2
    stages = [stage["name"] for stage in report["stages"]]
    assert stages[:2] == ["resolve", "export"]
    assert stages[-1] == "validate"


def test_manifest_describes_every_file(published: Path, tiny_dir: Path) -> None:
    manifest = read_json(published / "manifest.json")
    assert manifest["schema"] == 2
    assert manifest["precision"] == published.name
    assert manifest["config"]["model"]["name"] == "tiny"
    assert manifest["model"]["weights_sha256"] == sha256_file(tiny_dir / "model.safetensors")
    files = {path for path in published.rglob("*") if path.is_file()}
    files -= {path for name in ("engines", "triton") for path in (published / name).rglob("*")}
    files.remove(published / "manifest.json")
    assert {published / name for name in manifest["files"]} == files
    for name, entry in manifest["files"].items():
        assert entry["sha256"] == sha256_file(published / name)
        assert entry["bytes"] == (published / name).stat().st_size


def test_lineage_leads_back_to_the_weights(published: Path) -> None:
    manifest = read_json(published / "manifest.json")
    made_from = {step["sha256"]: step["from"] for step in manifest["lineage"]}
    graphs = [graph_sha256(manifest["files"], n) for n in ("model.onnx", "tensorrt/model.onnx")]
    built_from = [
        read_json(path)["graph"]["sha256"] for path in published.glob("engines/*/manifest.json")
    ]
    assert set(built_from) <= {graphs[1]}
    for graph in graphs:
        sha256, steps = graph, 0
        while made_from[sha256] is not None:
            sha256, steps = made_from[sha256], steps + 1
        assert sha256 == manifest["model"]["weights_sha256"]
        assert steps >= 1


def test_bundle_serves_existing_servers(published: Path) -> None:
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
        assert (published / name).is_file()
    modules = read_json(published / "modules.json")
    assert [module["path"] for module in modules][:2] == ["", "1_Pooling"]
    assert read_json(published / "1_Pooling" / "config.json")["pooling_mode_mean_tokens"] is True
    assert read_json(published / "sentence_bert_config.json")["max_seq_length"] == 48
    assert read_json(published / "config.json")["model_type"] == "bert"
    assert list(published.rglob("*.safetensors")) == []


def test_html_fetches_nothing(published: Path) -> None:
    page = (published / "report.html").read_text("utf-8")
    assert page.startswith("<!doctype html>")
    assert re.findall(r"(?i)(?:src|href|action)\s*=", page) == []
    assert re.findall(r"(?i)url\(|@import|<script|<link|<iframe", page) == []
    assert f"tiny · {published.name}" in page


def test_plan_is_there_but_was_not_executed(published: Path) -> None:
    if importlib.util.find_spec("tensorrt_rtx") is None:
        pytest.skip("tensorrt_rtx is not installed")
    if find_gpu() is not None:
        pytest.skip("this machine has a GPU")
    artifacts = {a["name"]: a for a in read_json(published / "report.json")["artifacts"]}
    plan = artifacts["tensorrt_rtx"]
    assert re.fullmatch(r"engines/tensorrt_rtx-1\.[\d.]+-ampere_plus/model\.plan", plan["file"])
    assert (published / plan["file"]).stat().st_size == plan["bytes"] > 100_000
    assert plan["executed"] is False
    assert "no CUDA device" in plan["reason"]
    assert not {"agreement", "tasks", "throughput", "latency_ms", "device"} & set(plan)
    # Its kernels were read where it was built: those gates need no GPU.
    assert {gate["name"].partition(".")[0] for gate in plan["gates"]} == {"plan"}
    assert all(gate["passed"] for gate in plan["gates"])


def test_junit_has_a_case_for_each_artifact_and_gate(published: Path) -> None:
    report = read_json(published / "report.json")
    suites = ET.fromstring((published / "junit.xml").read_text("utf-8"))
    cases = {(case.get("classname"), case.get("name")) for case in suites.iter("testcase")}
    gates = {gate["name"] for gate in report["artifacts"][0]["gates"]}
    assert {"vectors.finite", "vectors.nonzero"} <= gates
    of_plans = {
        (artifact["name"], gate["name"])
        for artifact in report["artifacts"]
        for gate in artifact.get("gates", [])
        if gate["name"].startswith("plan.")
    }
    names = {artifact["name"] for artifact in report["artifacts"]}
    assert cases == {(name, gate) for name in names for gate in gates} | of_plans
    assert suites.get("failures") == "0"
    unexecuted = sum(not artifact["executed"] for artifact in report["artifacts"])
    assert suites.get("skipped") == str(unexecuted * len(gates))


def test_runs_leave_no_scratch(published: Path, workplace: Path) -> None:
    assert list(workplace.glob("artifacts/.staging/*")) == []
    assert [path.name for path in workplace.iterdir()] == ["artifacts"]
    assert published.is_dir()


def snapshot(directory: Path) -> dict[str, tuple[int, bytes]]:
    """Every file's inode and bytes."""
    return {
        path.relative_to(directory).as_posix(): (path.stat().st_ino, path.read_bytes())
        for path in directory.rglob("*")
        if path.is_file()
    }


@pytest.mark.parametrize("published", ["fp32"], indirect=True)
def test_failed_gate(published: Path, run_tiny: Callable[..., Completed]) -> None:
    before = snapshot(published)
    done = run_tiny("fp32", "engine=onnxruntime", "validate.gates.cosine_mean.fp32=1.1")
    assert done.returncode == 2, done.stderr
    assert "gate failed: onnxruntime: cosine.mean 1.000000 < 1.1" in done.stdout
    assert "not published; report in artifacts/tiny/fp32.rejected" in done.stdout
    assert snapshot(published) == before
    rejected = published.with_name("fp32.rejected")
    assert {path.name for path in rejected.iterdir()} == {
        "report.json",
        "report.html",
        "report.md",
        "junit.xml",
    }
    report = read_json(rejected / "report.json")
    check_shape(report, REPORT)
    assert report["status"] == "failed"
    assert report["artifacts"][0]["gates"][0]["passed"] is False
    assert "Gate failed" in (rejected / "report.html").read_text("utf-8")


CORRUPT = """
import sys

import onnx
from onnx import numpy_helper

import pipeline.stages.cast as stage
from pipeline.__main__ import main

honest = stage.cast


def corrupted(*arguments, **named):
    model = honest(*arguments, **named)
    graph = onnx.load(model.path)
    weight = next(t for t in graph.graph.initializer if list(t.dims) == [32, 64])
    weight.CopyFrom(numpy_helper.from_array(2 * numpy_helper.to_array(weight), weight.name))
    onnx.save(graph, model.path)
    return model


stage.cast = corrupted
sys.exit(main())
"""
"""The command, with one weight of the graph doubled before it is validated."""


def test_a_corrupted_artifact_is_not_published(tmp_path: Path, tiny_dir: Path) -> None:
    arguments = [*command_line.settings(tiny_dir), "precision=fp16", "engine=onnxruntime"]
    done = command_line.run_command(*arguments, cwd=tmp_path, program=CORRUPT)
    assert done.returncode == 2, done.stderr
    assert "gate failed: onnxruntime: cosine.mean 0.9" in done.stdout
    assert "(validate.gates.cosine_mean.fp16)" in done.stdout
    tiny = tmp_path / "artifacts" / "tiny"
    assert [path.name for path in tiny.glob("[!.]*")] == ["fp16.rejected"]
    suites = ET.fromstring((tiny / "fp16.rejected" / "junit.xml").read_text("utf-8"))
    failures = {case.get("name") for case in suites.findall(".//failure/..")}
    assert "cosine.mean" in failures
    assert suites.get("failures") == str(len(failures))
