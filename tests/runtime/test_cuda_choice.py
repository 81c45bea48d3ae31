"""cuda/model.onnx: when ``load`` takes it, when it refuses, and how it falls back by steps.

CUDA is faked: its provider, its driver and its memory are the CPU's.
"""

import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import onnxruntime as ort
import pytest
from bundles import flip, manifest_of, publish_tiny, write_manifest
from example_report import executed
from fake_cuda import FakeRuntime

from pipeline.bundle.engines import open_parent
from pipeline.contracts import OnnxModel, SourceModel
from pipeline.engines import onnxruntime as engine
from pipeline.engines.cuda import Cuda
from pipeline.engines.onnxruntime import CUDA, OnnxRuntimeEncoder
from pipeline.engines.slots import SLOTS
from pipeline.engines.sweep import SIZES
from pipeline.errors import BundleError
from pipeline.runtime import load
from pipeline.runtime.run_all import run_all
from pipeline.verify import main

CUDA_FILE = "cuda/model.onnx"


@pytest.fixture(scope="module")
def fused_bundle(
    tiny_source: SourceModel, tiny_fp32: OnnxModel, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The tiny model with a second graph for CUDA, which here is the same one."""
    root = tmp_path_factory.mktemp("fused")
    graph = root / "fuse" / CUDA_FILE
    graph.parent.mkdir(parents=True)
    shutil.copyfile(tiny_fp32.path, graph)
    cuda = replace(tiny_fp32, path=graph, source_sha256=tiny_fp32.sha256)
    return publish_tiny(tiny_source, tiny_fp32, root / "work", root / "tiny" / "fp32", cuda=cuda)


@pytest.fixture
def bundle(fused_bundle: Path, tmp_path: Path) -> Path:
    """A copy of it, to change."""
    return Path(shutil.copytree(fused_bundle, tmp_path / "bundle"))


class Opened:
    """What was opened in the place of ONNX Runtime's encoder."""

    device = "cuda"

    def __init__(self, path: Path, *, cuda: bool = False) -> None:
        self.name = "onnxruntime"
        self.path = path.resolve()  # while it leads there: the bundle is held
        self.device = type(self).device if cuda else "cpu"


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """ONNX Runtime with a GPU, that no plan fits."""
    monkeypatch.setattr("pipeline.engines.tensorrt.find_gpu", lambda: None)
    monkeypatch.setattr("pipeline.engines.onnxruntime.has_cuda", lambda: True)
    monkeypatch.setattr("pipeline.engines.onnxruntime.OnnxRuntimeEncoder", Opened)


def opened(bundle: Path, wanted: str = "auto") -> tuple[str, str, str]:
    """Load, and return the engine's name, its device and its file."""
    found: Any = load(bundle, wanted).engine
    return found.name, found.device, found.path.relative_to(bundle.resolve()).as_posix()


@pytest.mark.parametrize(
    ("wanted", "seen"),
    [
        ("auto", ("onnxruntime_cuda", "cuda", CUDA_FILE)),
        ("onnxruntime_cuda", ("onnxruntime_cuda", "cuda", CUDA_FILE)),
        ("onnxruntime", ("onnxruntime", "cuda", "model.onnx")),
    ],
)
def test_the_fused_graph_is_taken_on_a_gpu(
    wanted: str, seen: tuple[str, str, str], bundle: Path, gpu: None
) -> None:
    assert opened(bundle, wanted) == seen


def test_without_a_fused_graph(tiny_bundle: Path, gpu: None) -> None:
    assert opened(tiny_bundle) == ("onnxruntime", "cuda", "model.onnx")
    with pytest.raises(BundleError, match=r"or the bundle no cuda/model\.onnx; load with engine='"):
        load(tiny_bundle, "onnxruntime_cuda")


@pytest.mark.slow
def test_a_gpu_says_nothing_about_the_fastest_on_cpus(
    tiny_source: SourceModel, tiny_fp32: OnnxModel, tmp_path: Path
) -> None:
    """Validated where ONNX Runtime had a GPU: on CPUs, only what ran on one is ranked."""
    measured = [
        executed(device="cuda", speed=50.0),
        executed("openvino", speed=3.0) | {"file": "model.onnx"},
    ]
    work, target = tmp_path / "work", tmp_path / "tiny" / "fp32"
    bundle = publish_tiny(tiny_source, tiny_fp32, work, target, measured=measured)
    assert manifest_of(bundle)["cpu_runtime"] == "openvino"


def test_without_a_gpu(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.engines.tensorrt.find_gpu", lambda: None)
    monkeypatch.setattr("pipeline.engines.onnxruntime.has_cuda", lambda: False)
    with pytest.raises(BundleError, match=r"engine onnxruntime_cuda: ONNX Runtime has no CUDA dev"):
        load(bundle, "onnxruntime_cuda")
    assert load(bundle, "onnxruntime").engine.device == "cpu"
    assert main([str(bundle), "--run"]) == 0


def test_a_provider_that_does_not_load_after_all(
    bundle: Path, gpu: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ONNX Runtime lists CUDA, and gives a session on the CPU: its libraries are missing."""
    monkeypatch.setattr(Opened, "device", "cpu")
    assert opened(bundle, "onnxruntime") == ("onnxruntime", "cpu", "model.onnx")
    with pytest.raises(BundleError, match="engine onnxruntime_cuda: "):
        load(bundle, "onnxruntime_cuda")


def test_a_fused_graph_that_was_changed(bundle: Path, gpu: None) -> None:
    flip(bundle / CUDA_FILE)
    with pytest.raises(BundleError, match=r"cuda/model\.onnx: .* the manifest says"):
        load(bundle)


def test_verify_runs_it_too(
    bundle: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class OnCuda(OnnxRuntimeEncoder):
        def __init__(self, path: Path, *, cuda: bool = False) -> None:
            super().__init__(path)
            self.device = "cuda" if cuda else "cpu"

    monkeypatch.setattr("pipeline.engines.onnxruntime.has_cuda", lambda: True)
    monkeypatch.setattr("pipeline.engines.onnxruntime.OnnxRuntimeEncoder", OnCuda)
    parent = open_parent(bundle)
    (run,) = [run for run in run_all(parent, []) if run.runtime == "onnxruntime_cuda"]
    assert run.file == CUDA_FILE
    assert run.checked is not None
    assert run.checked.device == "cuda"
    assert run.checked.mean > 0.99999
    monkeypatch.setattr("pipeline.engines.onnxruntime.OnnxRuntimeEncoder", OnnxRuntimeEncoder)
    assert main([str(bundle), "--run"]) == 0
    said = f"{CUDA_FILE} in onnxruntime_cuda: not run: does not open: ONNX Runtime has a CUDA prov"
    assert said in capsys.readouterr().out


# Opening: each step that is refused leaves the next.


class FakeSession:
    """A session on CUDA, made by a provider that may refuse to capture."""

    provider = CUDA
    refuses_graphs = False
    last: "FakeSession"
    runs_without_graph = 0

    def __init__(self, path: str, options: Any, providers: list[Any]) -> None:
        self.options = options
        self.settings = providers[0][1] if isinstance(providers[0], tuple) else {}
        if self.refuses_graphs and "enable_cuda_graph" in self.settings:
            raise RuntimeError(
                "This session cannot use the graph capture feature as requested by the user "
                "as all the graph nodes have not been partitioned to the CUDA EP"
            )
        FakeSession.last = self

    def get_providers(self) -> list[str]:
        return [type(self).provider, "CPUExecutionProvider"]

    def get_inputs(self) -> list[Any]:
        return []

    def io_binding(self) -> Any:
        return SimpleNamespace(bind_output=lambda *_: None)

    def run_with_iobinding(self, binding: Any, options: Any) -> None:
        if options.get_run_config_entry("gpu_graph_id") == "-1":
            FakeSession.runs_without_graph += 1

    def get_outputs(self) -> list[Any]:
        return [SimpleNamespace(name="sentence_embedding", shape=["batch", 32])]


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> FakeRuntime:
    """CUDA in the CPU's memory, and sessions that say they are on it."""
    runtime = FakeRuntime()
    monkeypatch.setattr(engine, "has_cuda", lambda: True)
    monkeypatch.setattr(engine, "missing", lambda: None)
    monkeypatch.setattr(engine, "Cuda", lambda: Cuda(runtime))
    monkeypatch.setattr(ort, "preload_dlls", lambda: None)
    monkeypatch.setattr(ort, "InferenceSession", FakeSession)
    return runtime


def open_(path: Path, threads: int = 0) -> tuple[OnnxRuntimeEncoder, FakeSession]:
    path.write_bytes(b"")
    return OnnxRuntimeEncoder(path, cuda=True, threads=threads), FakeSession.last


def test_graphs_where_everything_runs_on_cuda(cuda: FakeRuntime, tmp_path: Path) -> None:
    encoder, session = open_(tmp_path / "model.onnx", threads=3)
    assert (encoder.device, encoder.lanes, encoder.bucketed) == ("cuda", SLOTS, True)
    assert session.settings["enable_cuda_graph"] == "1"
    assert encoder.max_tokens in SIZES  # by what it took, without a graph for it
    assert FakeSession.runs_without_graph > 0
    assert encoder.bound is not None
    assert encoder.bound.graphs == 0
    assert session.options.intra_op_num_threads == 3
    assert len(cuda.streams) == SLOTS  # one a slot, none shared


def test_an_operator_that_is_not_on_cuda_turns_graphs_off(
    cuda: FakeRuntime,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(FakeSession, "refuses_graphs", True)
    with caplog.at_level("INFO"):
        encoder, session = open_(tmp_path / "model.onnx")
    assert "CUDA graphs off: ONNX Runtime cannot open" in caplog.text
    assert "all the graph nodes have not been partitioned" in caplog.text
    assert "enable_cuda_graph" not in session.settings
    assert (encoder.device, encoder.lanes, encoder.bucketed) == ("cuda", SLOTS, True)


def test_no_room_on_the_device_turns_bound_buffers_off(
    cuda: FakeRuntime, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cuda.room = 1000
    with caplog.at_level("INFO"):
        encoder, session = open_(tmp_path / "model.onnx")
    assert "ONNX Runtime copies inputs and outputs itself: CUDA: cudaMalloc: out of" in caplog.text
    assert "enable_cuda_graph" not in session.settings
    assert (encoder.device, encoder.lanes, encoder.bucketed) == ("cuda", 1, False)
    assert (cuda.held, cuda.streams) == (0, set())


def test_without_the_bindings_onnx_runtime_copies_itself(
    cuda: FakeRuntime, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "missing", lambda: "cuda-bindings is not installed")
    encoder, session = open_(tmp_path / "model.onnx")
    assert (encoder.device, encoder.lanes, encoder.bucketed) == ("cuda", 1, False)
    assert "enable_cuda_graph" not in session.settings


def test_a_session_that_fell_back_to_the_cpu_is_called_so(
    cuda: FakeRuntime, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FakeSession, "provider", "CPUExecutionProvider")
    encoder, _ = open_(tmp_path / "model.onnx", threads=2)
    assert (encoder.device, encoder.lanes, encoder.bucketed) == ("cpu", 2, False)
    assert cuda.held == 0


def test_int8_asks_for_no_gpu(bundle: Path, gpu: None) -> None:
    write_manifest(bundle, manifest_of(bundle) | {"precision_type": "int8"})
    shutil.rmtree(bundle / "engines")  # of the manifest as it was
    assert opened(bundle, "onnxruntime") == ("onnxruntime", "cpu", "model.onnx")
    with pytest.raises(BundleError, match="engine onnxruntime_cuda: "):
        load(bundle, "onnxruntime_cuda")
