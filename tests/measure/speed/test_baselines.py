"""Baselines: which are opened on which device, and why the others are not."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from pipeline.config import Baseline
from pipeline.contracts import OnnxModel, SourceModel
from pipeline.measure.speed import baselines
from pipeline.measure.speed.baselines import open_baselines
from pipeline.text.tokens import TokenBatch

ALL = list(Baseline)


class FakeEncoder:
    name = "fake"
    device = "cuda"

    def encode(self, batch: TokenBatch) -> npt.NDArray[np.float32]:
        return np.zeros((len(batch.input_ids), 2), dtype=np.float32)


@pytest.mark.parametrize(
    ("wanted", "device", "opened", "refused"),
    [
        (None, "cpu", [Baseline.onnxruntime_fp32], []),
        (None, "cuda", [Baseline.torch_fp16], []),
        (
            ALL,
            "cpu",
            [Baseline.onnxruntime_fp32, Baseline.torch_compile],
            [Baseline.torch_fp16],
        ),
        (ALL, "cuda", ALL, []),
        ([], "cuda", [], []),
    ],
)
def test_which_are_opened(
    wanted: Sequence[Baseline] | None,
    device: str,
    opened: Sequence[Baseline],
    refused: Sequence[Baseline],
    tiny_source: SourceModel,
    evaluation_batch: TokenBatch,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(baselines, "open_baseline", lambda *_: FakeEncoder())
    seen, reasons = open_baselines(
        wanted, tiny_source, Path("fp32.onnx"), device=device, trial=evaluation_batch
    )
    assert set(seen) == set(opened)
    assert set(reasons) == set(refused)
    assert all(reasons.values())


def test_the_fp32_graph_runs_in_onnxruntime(
    tiny_source: SourceModel, tiny_fp32: OnnxModel, evaluation_batch: TokenBatch
) -> None:
    seen, _ = open_baselines(
        None,
        tiny_source,
        tiny_fp32.path,
        device="cpu",
        trial=evaluation_batch,
    )
    encoder = seen[Baseline.onnxruntime_fp32]
    assert (encoder.name, encoder.device) == ("onnxruntime", "cpu")


def test_one_that_fails_says_why(
    tiny_source: SourceModel, evaluation_batch: TokenBatch, tmp_path: Path
) -> None:
    (tmp_path / "broken.onnx").write_bytes(b"no graph")
    seen, reasons = open_baselines(
        None,
        tiny_source,
        tmp_path / "broken.onnx",
        device="cpu",
        trial=evaluation_batch,
    )
    assert seen == {}
    assert reasons[Baseline.onnxruntime_fp32].startswith("failed: ONNX Runtime cannot open")
