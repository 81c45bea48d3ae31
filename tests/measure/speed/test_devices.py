"""On a machine with a GPU, what runs on the CPU is timed against PyTorch on the CPU."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pytest
import torch
from clock import Clock, install, make_batches

from pipeline.config import Baseline, Device, GridConfig, ValidateConfig
from pipeline.contracts import SourceModel
from pipeline.engines.torch import TorchEncoder, usable_devices
from pipeline.engines.torch_graphs import MOST_SHAPES, GraphedTorch
from pipeline.measure.speed.baselines import obstacle, usual_baselines
from pipeline.measure.speed.devices import needed_devices, own_device
from pipeline.measure.speed.grid import full_batch
from pipeline.measure.speed.side import Side
from pipeline.measure.speed.speed import TimedText, measure_speed
from pipeline.text.tokens import TokenBatch, Tokenizer, TokenRow
from pipeline.vectors import FloatArray

BOTH, CPU = {"cpu", "cuda"}, {"cpu"}


@pytest.mark.parametrize(
    ("device", "main", "available", "own"),
    [
        ("cpu", "cuda", BOTH, "cpu"),
        ("cuda", "cuda", BOTH, "cuda"),
        ("cpu", "cpu", CPU, "cpu"),
        ("cuda", "cpu", CPU, "cpu"),  # a plan beside a PyTorch that has no CUDA, or may not use it
    ],
)
def test_the_reference_runs_where_the_artifact_does(
    device: str, main: str, available: set[str], own: str
) -> None:
    assert own_device(device, main, available) == own


@pytest.mark.parametrize(
    ("devices", "main", "available", "needed"),
    [
        (["cpu"], "cuda", BOTH, ["cuda", "cpu"]),
        (["cuda", "cuda"], "cuda", BOTH, ["cuda"]),
        (["cuda", "cpu", "cuda"], "cuda", BOTH, ["cuda", "cpu"]),
        (["cpu", "cuda"], "cpu", CPU, ["cpu"]),
        ([], "cuda", BOTH, ["cuda"]),
    ],
)
def test_which_references_are_opened(
    devices: list[str], main: str, available: set[str], needed: list[str]
) -> None:
    assert needed_devices(devices, main, available) == needed


@pytest.mark.parametrize(
    ("device", "there", "usable"),
    [
        (Device.auto, True, BOTH),
        (Device.cuda, True, BOTH),
        (Device.cpu, True, CPU),
        (Device.auto, False, CPU),
    ],
)
def test_where_pytorch_may_run(
    device: Device, there: bool, usable: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: there)
    assert usable_devices(device) == usable


class Timed:
    """An encoder on a device that takes a time for each token."""

    max_tokens: int | None = None
    bucketed = False

    def __init__(self, name: str, device: str, clock: Clock, seconds: float) -> None:
        self.name, self.device = name, device
        self.clock, self.seconds = clock, seconds

    def encode(self, batch: TokenBatch) -> FloatArray:
        self.clock.now += self.seconds * batch.input_ids.size
        return np.zeros((len(batch.input_ids), 2), dtype=np.float32)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return install(monkeypatch)


def side(encoder: Timed, text_s: float = 1.0) -> Side:
    def encode(texts: Sequence[str]) -> None:
        encoder.clock.now += text_s * encoder.seconds * len(texts)

    return Side(encoder=encoder, encode_texts=encode)


@pytest.fixture
def timed() -> TimedText:
    rows = [TokenRow(ids=(101, 7, 8, 102), type_ids=(0, 0, 0, 0))] * 8
    batches = make_batches((4, 10), (4, 6))
    return TimedText(
        texts=["a text"] * 8, rows=rows, batches=batches, singles=batches[:1], max_length=8
    )


def test_an_int8_file_on_the_cpu_beside_a_gpu(clock: Clock, timed: TimedText) -> None:
    """PyTorch is ten times as fast on the GPU; the file is three times as fast as on its CPU."""
    make: Callable[[str, str, float], Timed] = lambda n, d, s: Timed(n, d, clock, s)  # noqa: E731
    on_gpu, on_cpu = make("torch", "cuda", 0.001), make("torch", "cpu", 0.01)
    int8, plan = make("onnxruntime", "cpu", 0.01 / 3), make("tensorrt", "cuda", 0.001 / 4)
    fp32, fp16 = make("onnxruntime", "cpu", 0.005), make("torch", "cuda", 0.0005)
    baselines: Mapping[tuple[str, str], Timed] = {
        ("onnxruntime_fp32", "cpu"): fp32,
        ("torch_fp16", "cuda"): fp16,
    }
    config = ValidateConfig(
        latency_runs=20, grid=GridConfig(batch=[1, 2], sequence=[4]), min_rounds=6, max_rounds=6
    )
    found = measure_speed(
        {"cuda": side(on_gpu), "cpu": side(on_cpu)},
        [side(int8), side(plan)],
        baselines,
        timed,
        config,
        budget_s=1e9,
    )
    file, engine = found.artifacts
    assert (file.reference_device, engine.reference_device) == ("cpu", "cuda")
    assert file.throughput.speedup.median == pytest.approx(3)
    assert engine.throughput.speedup.median == pytest.approx(4)
    assert file.with_tokenization.speedup.median == pytest.approx(3)
    assert engine.with_tokenization.speedup.median == pytest.approx(4)
    tokens = sum(batch.input_ids.size for batch in timed.batches)
    assert file.throughput.reference_sentences_per_second == pytest.approx(8 / (0.01 * tokens))
    # Sentences a second can be set side by side: all are of the same rounds.
    assert engine.throughput.sentences_per_second == pytest.approx(8 / (0.001 / 4 * tokens))
    assert {name: ratio.median for name, ratio in file.over_baseline.items()} == pytest.approx(
        {"onnxruntime_fp32": 1.5}
    )
    assert {name: ratio.median for name, ratio in engine.over_baseline.items()} == pytest.approx(
        {"torch_fp16": 2.0}
    )
    assert found.baselines["onnxruntime_fp32", "cpu"].speedup.median == pytest.approx(2)
    assert found.baselines["torch_fp16", "cuda"].speedup.median == pytest.approx(2)
    cells = [[cell.timing for cell in artifact.grid] for artifact in found.artifacts]
    ratios = [[cell.speedup.median for cell in some if cell] for some in cells]
    assert ratios == [pytest.approx([3, 3]), pytest.approx([4, 4])]


def test_baselines_by_device() -> None:
    assert usual_baselines("cpu") == (Baseline.onnxruntime_fp32,)
    usual = usual_baselines("cuda")
    assert set(usual) == set(Baseline) - {Baseline.onnxruntime_fp32}
    for name in (Baseline.torch_fp16, Baseline.torch_cuda_graph, Baseline.onnx_o4):
        assert obstacle(name, "cpu") == "no CUDA device: a CPU computes fp16 in fp32"
    assert obstacle(Baseline.torch_compile, "cpu") is None
    assert obstacle(Baseline.torch_cuda_graph, "cuda") is None


def test_onnx_o4_needs_optimum(monkeypatch: pytest.MonkeyPatch) -> None:
    module = "pipeline.measure.speed.baselines.is_installed"
    monkeypatch.setattr(module, lambda name: name != "optimum")
    assert "optimum is not installed" in str(obstacle(Baseline.onnx_o4, "cuda"))
    monkeypatch.setattr(module, lambda _: True)
    assert obstacle(Baseline.onnx_o4, "cuda") is None


@pytest.mark.slow
def test_pytorch_is_captured_once_a_shape_and_gives_its_own_vectors(
    tiny_source: SourceModel, tiny_tokenizer: Tokenizer
) -> None:
    """The inputs of a graph stay where they are; what is replayed reads what was copied there."""
    encoder = TorchEncoder(tiny_source, device=Device.cpu)
    captured: list[int] = []

    def capture(compute: Callable[[], torch.Tensor]) -> tuple[Callable[[], object], torch.Tensor]:
        output = torch.empty_like(compute())
        captured.append(len(output))
        return lambda: output.copy_(compute()), output

    graphed = GraphedTorch(encoder, capture=capture)
    rows = tiny_tokenizer.rows([f"{'many ' * i}words in text {i}" for i in range(12)])
    for start in (0, 3, 6):
        batch = full_batch(rows[start:], 3, 7)
        np.testing.assert_allclose(graphed.encode(batch), encoder.encode(batch), atol=1e-6)
    padded = tiny_tokenizer.pad(rows[:4])
    np.testing.assert_allclose(graphed.encode(padded), encoder.encode(padded), atol=1e-6)
    assert captured == [3, 4]
    for length in range(1, MOST_SHAPES + 10):
        graphed.encode(full_batch(rows, 1, length))
    assert len(captured) == MOST_SHAPES
