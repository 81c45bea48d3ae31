"""Cold starts: a process of its own, with the runtime's own numbers."""

import json
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from pipeline.contracts import OnnxModel, SourceModel
from pipeline.measure.speed.cold import ColdJob, measure_cold


@pytest.fixture
def job(tiny_source: SourceModel, tiny_fp32: OnnxModel) -> ColdJob:
    return ColdJob(
        engine="onnxruntime",
        path=str(tiny_fp32.path),
        precision="fp32",
        assets=str(tiny_source.assets),
        max_length=tiny_source.max_length,
        dimension=tiny_source.dimension,
        cuda=False,
        trust_remote_code=False,
        texts=["one text", "another one, somewhat longer"],
        batch_size=2,
    )


@pytest.mark.slow
def test_onnxruntime_alone(job: ColdJob) -> None:
    seen = measure_cold(job, timeout_s=300)
    assert seen is not None
    assert seen.load_s > 0
    assert seen.first_encode_ms > 0
    # The graph is some hundred kB, the runtime some tens of MB, and PyTorch beyond 200 MB.
    assert 20 * 2**20 < seen.peak_memory_bytes < 200 * 2**20


@pytest.mark.slow
def test_onnxruntime_needs_no_torch(job: ColdJob) -> None:
    code = (
        "import runpy, sys\n"
        "runpy.run_module('pipeline.measure.speed.cold', run_name='__main__')\n"
        "print(*sys.modules, file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        input=json.dumps(asdict(job) | {"started": 0.0, "gpu_memory_before": None}),
        cwd=Path(__file__).parents[3],
        capture_output=True,
        text=True,
        check=True,
    )
    modules = set(done.stderr.split())
    assert "onnxruntime" in modules
    assert not {"torch", "transformers", "sentence_transformers", "onnx", "hydra"} & modules


@pytest.mark.slow
def test_the_reference_loads_what_a_user_loads(job: ColdJob, tiny_source: SourceModel) -> None:
    seen = measure_cold(replace(job, engine="torch", path=str(tiny_source.path)), timeout_s=300)
    assert seen is not None
    assert seen.peak_memory_bytes > 200 * 2**20


@pytest.mark.slow
def test_what_does_not_load_is_a_line_in_the_log(
    job: ColdJob, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "broken.onnx").write_bytes(b"no graph")
    broken = replace(job, path=str(tmp_path / "broken.onnx"))
    assert measure_cold(broken, timeout_s=300) is None
    assert "ONNX Runtime cannot open" in caplog.text


def test_no_time_is_no_number(job: ColdJob, caplog: pytest.LogCaptureFixture) -> None:
    assert measure_cold(job, timeout_s=0.01) is None
    assert "no cold start: not done within" in caplog.text
