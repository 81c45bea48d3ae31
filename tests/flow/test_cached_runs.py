"""Whole runs and the store: what is made again and what is not; runs that are killed."""

import json
import logging
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import command_line
import pytest

from pipeline.flow.store.entries import records
from pipeline.report.published import published_beside, read_report
from pipeline.runtime import load

KILLS = int(os.environ.get("PIPELINE_KILLS", "3"))
"""How many runs are killed; 50 take ten minutes."""


def arguments(tiny_dir: Path, artifacts: Path, *more: str) -> list[str]:
    small = [*command_line.settings(tiny_dir), f"artifacts_dir={artifacts}"]
    return [*small, "precision=int8", "engine=tensorrt_rtx", "validate=off", *more]


def cached(bundle: Path) -> dict[str, bool]:
    stages = read_report(bundle)["stages"]
    return {stage["name"]: stage["cached"] for stage in stages}


MADE = ["resolve", "export", "ranges", "quantize", "optimize", "build tensorrt_rtx"]


@pytest.fixture(scope="module")
def first(tiny_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle of the tiny model in int8, its stages in the store beside it."""
    artifacts = tmp_path_factory.mktemp("artifacts")
    return command_line.run_here(*arguments(tiny_dir, artifacts))


def files(bundle: Path) -> dict[str, str]:
    manifest = json.loads((bundle / "manifest.json").read_text())
    reports = ("report.", "junit.", "README", "bom.")
    return {n: f["sha256"] for n, f in manifest["files"].items() if not n.startswith(reports)}


def test_a_second_run_makes_nothing(first: Path, tiny_dir: Path) -> None:
    before = files(first)
    again = command_line.run_here(*arguments(tiny_dir, first.parent.parent))
    assert again == first
    assert cached(again) == dict.fromkeys(MADE, True)
    assert files(again) == before
    report = read_report(again)
    assert report["quantization"]["gemms"] == 12


def test_calibration_text_redoes_what_it_changes(
    first: Path, tiny_dir: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    texts = tmp_path / "texts.jsonl"
    texts.write_text("".join(json.dumps({"text": f"Own text {i}."}) + "\n" for i in range(40)))
    own = ["dataset=jsonl", f"dataset.path={texts}", "dataset.calibration_fraction=0.5"]
    with caplog.at_level(logging.INFO, "pipeline"):
        bundle = command_line.run_here(*arguments(tiny_dir, first.parent.parent, *own))
    made = cached(bundle)
    assert made == dict.fromkeys(MADE, False) | {"resolve": True, "export": True}
    assert "quantize anew: calibration text changed" in caplog.messages
    assert "optimize anew: graphs, quantization changed" in caplog.messages
    assert "build tensorrt_rtx anew: graph changed" in caplog.messages


@pytest.mark.parametrize(
    ("change", "redone"),
    [
        ("precision.bias_correction=false", MADE[3:]),
        ("engine.workspace_mib=1024", MADE[5:]),
        ("model.max_length=40", MADE),
        ("cache.refresh=true", MADE),
        ("cache.enabled=false", MADE),
        ("precision.name=mine", []),
        ("validate.batch_size=7", []),
        ("engine.timeout_s=1000", []),
    ],
)
def test_a_setting_redoes_what_it_changes(
    first: Path, tiny_dir: Path, change: str, redone: list[str]
) -> None:
    bundle = command_line.run_here(*arguments(tiny_dir, first.parent.parent, change))
    assert [name for name, taken in cached(bundle).items() if not taken] == redone


def test_another_precision_shares_the_export(first: Path, tiny_dir: Path) -> None:
    bundle = command_line.run_here(
        *arguments(tiny_dir, first.parent.parent), "precision=fp16", "engine=onnxruntime"
    )
    made = dict.fromkeys(("cast", "optimize", "fuse"), False)
    assert cached(bundle) == {"resolve": True, "export": True, "ranges": True, **made}


def test_weights_are_part_of_the_key(tiny_dir: Path, tmp_path: Path) -> None:
    own = tmp_path / "model"
    shutil.copytree(tiny_dir, own)
    fp32 = ["precision=fp32", "engine=onnxruntime", "optimize=false"]
    command_line.run_here(*arguments(own, tmp_path / "a"), *fp32)
    card = own / "README.md"
    card.write_text("changed")
    bundle = command_line.run_here(*arguments(own, tmp_path / "a"), *fp32)
    assert cached(bundle) == {"resolve": False, "export": False, "ranges": False}


def test_nothing_heavy_is_imported_where_nothing_is_made(first: Path, tiny_dir: Path) -> None:
    """What keeps a warm run short: only ONNX Runtime, which opens what is about to be published."""
    program = (
        "import sys; from pipeline.__main__ import main; code = main(); "
        "heavy = {'torch', 'transformers', 'onnxruntime', 'openvino', 'tensorrt_rtx'}; "
        "print('imported:', sorted(heavy & set(sys.modules)), file=sys.stderr); sys.exit(code)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments(tiny_dir, first.parent.parent)],
        env=command_line.environment(),
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("from the store") == len(MADE)
    assert done.stderr.rstrip().endswith("imported: ['onnxruntime']")


# Without validation.


def test_without_validation_every_page_says_so(first: Path) -> None:
    assert first.name == "int8.unvalidated"
    report = read_report(first)
    assert report["status"] == "unvalidated"
    assert report["reference"]["device"] is None
    assert [a["name"] for a in report["artifacts"]] == ["onnxruntime", "tensorrt_rtx"]
    for artifact in report["artifacts"]:
        assert not artifact["executed"]
        assert artifact["reason"] == "validation was turned off (validate.enabled=false)"
        assert "agreement" not in artifact
        assert "throughput" not in artifact
    assert report["next_step"].startswith("Do not deploy this: nothing was measured.")
    page = (first / "report.html").read_text()
    assert '<header class="verdict unvalidated">' in page
    assert "not validated" in page
    assert "Not measured: no artifact ran." in page
    assert "not validated" in (first / "report.md").read_text()
    assert 'skipped="2"' in (first / "junit.xml").read_text()


def test_without_validation_the_bundle_is_whole(first: Path) -> None:
    assert load(first, "onnxruntime").encode(["one", "two"]).shape == (2, 32)


def test_without_validation_nothing_is_published_beside(first: Path) -> None:
    assert published_beside(first.parent / "fp16", read_report(first)) == []


def test_without_validation_the_good_bundle_stays(tiny_dir: Path, tmp_path: Path) -> None:
    fp32 = ["precision=fp32", "engine=onnxruntime"]
    small = [*command_line.settings(tiny_dir), f"artifacts_dir={tmp_path}", *fp32]
    good = command_line.run_here(*small)
    manifest = (good / "manifest.json").read_bytes()
    other = command_line.run_here(*small, "validate=off")
    assert other == good.with_name("fp32.unvalidated")
    assert (good / "manifest.json").read_bytes() == manifest
    made = ("resolve", "export", "ranges", "optimize")
    assert cached(other) == dict.fromkeys(made, True)


# Runs that are killed.


def whole(store: Path) -> None:
    """Check that every entry of the store can be used or is refused: none is half and taken."""
    for path in records(store, "*"):
        record = json.loads(path.read_text())
        for name, told in record["files"].items():
            assert (path.parent / "files" / name).stat().st_size == told["bytes"]


@pytest.mark.slow
def test_killed_runs_leave_a_store_that_works(tiny_dir: Path, tmp_path: Path) -> None:
    artifacts = tmp_path / "artifacts"
    start = time.monotonic()
    bundle = command_line.run_here(*arguments(tiny_dir, artifacts))
    expected = files(bundle)
    command = [*command_line.COMMAND, *arguments(tiny_dir, artifacts, "cache.refresh=true")]
    longest = 2.5 * (time.monotonic() - start)
    chance = random.Random(0)
    killed = 0
    for _ in range(KILLS):
        process = subprocess.Popen(
            command,
            env=command_line.environment(),
            cwd=tmp_path,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            process.wait(chance.uniform(1, longest))
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            killed += 1
            process.wait()
        whole(artifacts / ".cache")
        load(bundle, "onnxruntime")
        again = command_line.run_here(*arguments(tiny_dir, artifacts))
        assert again == bundle
        assert files(again) == expected
        assert list(artifacts.glob(".staging/*")) == []
        assert list(artifacts.glob(".cache/*/*.tmp")) == []
    assert killed >= KILLS // 2
