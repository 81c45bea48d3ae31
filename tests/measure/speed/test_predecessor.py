"""The published bundle: its figures and engines, and whatever it may be by now."""

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from pipeline.errors import BundleError
from pipeline.measure.speed import predecessor
from pipeline.measure.speed.predecessor import open_predecessors
from pipeline.text.tokens import TokenBatch

TRIAL = TokenBatch(
    input_ids=np.ones((2, 3), dtype=np.int64),
    attention_mask=np.ones((2, 3), dtype=np.int64),
    token_type_ids=np.zeros((2, 3), dtype=np.int64),
)


class FakeEngine:
    name = "onnxruntime"
    device = "cpu"
    max_tokens: int | None = None
    bucketed = False
    rows = 2
    fill = 1.0

    def encode(self, batch: TokenBatch) -> npt.NDArray[np.float32]:
        return np.full((self.rows, 4), self.fill, dtype=np.float32)


class FakeText:
    def __init__(self, engine: FakeEngine) -> None:
        self.engine = engine


def write(bundle: Path, **changes: Any) -> None:
    artifact = {
        "name": "onnxruntime",
        "executed": True,
        "agreement": {"cosine": {"mean": 0.99}},
        "tasks": {"sts": {"metric": "spearman", "artifact": 81.5}},
    }
    report = {"dataset_sha256": "d" * 64, "artifacts": [artifact]} | changes
    (bundle / "report.json").write_text(json.dumps(report), "utf-8")


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> FakeEngine:
    """The engine that the bundle at hand loads as."""
    fake = FakeEngine()
    monkeypatch.setattr(predecessor, "load", lambda directory, engine: FakeText(fake))
    return fake


def open_here(bundle: Path) -> dict[str, predecessor.Predecessor]:
    return open_predecessors(bundle, ["onnxruntime"], "d" * 64, TRIAL)


def test_a_published_bundle(tmp_path: Path, engine: FakeEngine) -> None:
    write(tmp_path)
    seen = open_here(tmp_path)["onnxruntime"]
    assert seen.cosine_mean == 0.99
    assert seen.tasks == {("sts", "spearman"): 81.5}
    assert seen.encoder is engine


def test_nothing_published_is_no_line(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    assert open_here(tmp_path / "nowhere") == {}
    assert caplog.text == ""


@pytest.mark.parametrize("sha256", ["e" * 64, None])
def test_other_text_is_not_compared(
    tmp_path: Path, engine: FakeEngine, sha256: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    write(tmp_path, dataset_sha256=sha256)
    assert open_here(tmp_path) == {}
    assert "it was measured on other text" in caplog.text


@pytest.mark.parametrize(
    "content",
    ["{", "[]", "null", '"text"', '{"dataset_sha256": "' + "d" * 64 + '"}'],
    ids=["not JSON", "a list", "null", "a string", "no artifacts"],
)
def test_a_damaged_report_is_a_line_in_the_log(
    tmp_path: Path, engine: FakeEngine, content: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    (tmp_path / "report.json").write_text(content, "utf-8")
    assert open_here(tmp_path) == {}
    assert "not compared with the published bundle" in caplog.text


@pytest.mark.parametrize(
    "artifacts",
    [
        [],
        None,
        [{"name": "onnxruntime", "executed": True}],
        [{"name": "onnxruntime", "executed": True, "agreement": {"cosine": {"mean": "high"}}}],
    ],
)
def test_an_artifact_without_figures(tmp_path: Path, engine: FakeEngine, artifacts: Any) -> None:
    write(tmp_path, artifacts=artifacts)
    assert open_here(tmp_path) == {}


def test_an_artifact_that_was_not_executed(
    tmp_path: Path, engine: FakeEngine, caplog: pytest.LogCaptureFixture
) -> None:
    write(tmp_path, artifacts=[{"name": "onnxruntime", "executed": False, "reason": "none"}])
    assert open_here(tmp_path) == {}
    assert "it was not executed then" in caplog.text


def test_a_bundle_that_does_not_load(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(directory: Path, engine: str) -> FakeText:
        raise BundleError("model.onnx: sha256 is another")

    monkeypatch.setattr(predecessor, "load", refuse)
    write(tmp_path)
    assert open_here(tmp_path) == {}
    assert "sha256 is another" in caplog.text


@pytest.mark.parametrize(("rows", "fill"), [(1, 1.0), (2, float("nan"))])
def test_an_engine_that_returns_no_vectors(
    tmp_path: Path, engine: FakeEngine, rows: int, fill: float
) -> None:
    write(tmp_path)
    engine.rows, engine.fill = rows, fill
    assert open_here(tmp_path) == {}
