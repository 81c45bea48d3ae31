"""Baselines: which are opened on which device, and why the others are not."""

from collections.abc import Mapping, Sequence
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
HALF = [name for name in Baseline if name is not Baseline.onnxruntime_fp32]


class FakeEncoder:
    name = "fake"
    device = "cuda"

    def encode(self, batch: TokenBatch) -> npt.NDArray[np.float32]:
        return np.zeros((len(batch.input_ids), 2), dtype=np.float32)


@pytest.mark.parametrize(
    ("wanted", "devices", "opened", "refused"),
    [
        (None, ["cpu"], {"cpu": [Baseline.onnxruntime_fp32]}, []),
        (None, ["cuda"], {"cuda": HALF}, []),
        (None, ["cuda", "cpu"], {"cuda": HALF, "cpu": [Baseline.onnxruntime_fp32]}, []),
        (
            ALL,
            ["cpu"],
            {"cpu": [Baseline.onnxruntime_fp32, Baseline.torch_compile]},
            [Baseline.torch_fp16, Baseline.torch_cuda_graph, Baseline.onnx_o4],
        ),
        (ALL, ["cuda"], {"cuda": ALL}, []),
        ([Baseline.torch_fp16], ["cuda", "cpu"], {"cuda": [Baseline.torch_fp16]}, []),
        ([], ["cuda"], {}, []),
    ],
)
def test_which_are_opened(
    wanted: Sequence[Baseline] | None,
    devices: Sequence[str],
    opened: Mapping[str, Sequence[Baseline]],
    refused: Sequence[Baseline],
    tiny_source: SourceModel,
    evaluation_batch: TokenBatch,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(baselines, "open_baseline", lambda *_: FakeEncoder())
    monkeypatch.setattr(baselines, "is_installed", lambda _: True)
    seen, reasons = open_baselines(
        wanted, tiny_source, Path("fp32.onnx"), devices=devices, trial=evaluation_batch
    )
    assert set(seen) == {(name, device) for device, names in opened.items() for name in names}
    assert set(reasons) == set(refused)
    assert all(reasons.values())


def test_the_fp32_graph_runs_in_onnxruntime(
    tiny_source: SourceModel, tiny_fp32: OnnxModel, evaluation_batch: TokenBatch
) -> None:
    seen, _ = open_baselines(
        None,
        tiny_source,
        tiny_fp32.path,
        devices=["cpu"],
        trial=evaluation_batch,
    )
    encoder = seen[Baseline.onnxruntime_fp32, "cpu"]
    assert (encoder.name, encoder.device) == ("onnxruntime", "cpu")


def test_one_that_fails_says_why(
    tiny_source: SourceModel, evaluation_batch: TokenBatch, tmp_path: Path
) -> None:
    (tmp_path / "broken.onnx").write_bytes(b"no graph")
    seen, reasons = open_baselines(
        None,
        tiny_source,
        tmp_path / "broken.onnx",
        devices=["cpu"],
        trial=evaluation_batch,
    )
    assert seen == {}
    assert reasons[Baseline.onnxruntime_fp32].startswith("failed: ONNX Runtime cannot open")
