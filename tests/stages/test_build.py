"""build: profiles, the choice of runtimes, real TensorRT-RTX plans, and builds that go wrong."""

import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path
from types import ModuleType

import onnx
import pytest
from onnx import TensorProto, helper

from pipeline.config import EngineChoice, EngineConfig
from pipeline.contracts import Engine, Graphs, OnnxModel, Profile, sha256_file
from pipeline.engines import tensorrt as tensorrt_engine
from pipeline.engines.build_messages import BuildRequest
from pipeline.engines.builder import run_build
from pipeline.engines.gpu import Gpu, is_installed
from pipeline.errors import BuildError, ConfigError
from pipeline.stages import build as build_stage
from pipeline.stages.build import build, make_profiles, plan_build

MAX_LENGTH = 48
ADA = Gpu(name="NVIDIA L4", compute_capability=(8, 9), driver="580.1")
HOPPER = Gpu(name="NVIDIA H200", compute_capability=(9, 0), driver="580.1")
TURING = Gpu(name="Tesla T4", compute_capability=(7, 5), driver="580.1")
BLACKWELL = Gpu(name="NVIDIA RTX PRO 6000", compute_capability=(12, 0), driver="580.1")

needs_rtx = pytest.mark.skipif(
    not is_installed("tensorrt_rtx"), reason="tensorrt_rtx is not installed"
)


def engine_config(
    runtime: EngineChoice = EngineChoice.auto,
    *,
    buckets: list[int] | None = None,
    opt_batch: int = 16,
    max_batch: int = 64,
) -> EngineConfig:
    return EngineConfig(
        runtime=runtime, sequence_buckets=buckets, opt_batch=opt_batch, max_batch=max_batch
    )


# Profiles.


@pytest.mark.parametrize(
    ("max_length", "expected"),
    [
        (16, [(1, 16)]),
        (32, [(1, 32)]),
        (33, [(1, 32), (33, 33)]),
        (48, [(1, 32), (33, 48)]),
        (128, [(1, 32), (33, 128)]),
        (512, [(1, 32), (33, 128), (129, 512)]),
    ],
)
def test_default_profiles(max_length: int, expected: list[tuple[int, int]]) -> None:
    profiles = make_profiles(engine_config(), max_length=max_length)
    assert [(p.min[1], p.max[1]) for p in profiles] == expected


def test_explicit_profiles() -> None:
    config = engine_config(buckets=[8, 48], opt_batch=4, max_batch=20)
    assert make_profiles(config, max_length=MAX_LENGTH) == (
        Profile(min=(1, 1), opt=(4, 8), max=(20, 8)),
        Profile(min=(1, 9), opt=(4, 48), max=(20, 48)),
    )


@pytest.mark.parametrize(
    ("buckets", "message"),
    [
        ([], r"engine\.sequence_buckets=\[\]: expected increasing token counts.*\[32,48\]"),
        ([0, 48], r"engine\.sequence_buckets=\[0, 48\]: expected increasing"),
        ([-4, 48], r"expected increasing"),
        ([32, 16, 48], r"expected increasing"),
        ([32, 32, 48], r"expected increasing"),
        ([32, 64], r"64 is beyond the model's max length of 48 tokens; end with 48"),
        ([16, 32], r"texts of 33 to 48 tokens .*add 48, or .*model\.max_length=32"),
    ],
)
def test_buckets_that_do_not_fit(buckets: list[int], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make_profiles(engine_config(buckets=buckets), max_length=MAX_LENGTH)


@pytest.mark.parametrize(("opt_batch", "max_batch"), [(0, 64), (65, 64), (1, 0), (-1, -1)])
def test_batches_that_contradict(opt_batch: int, max_batch: int) -> None:
    config = engine_config(opt_batch=opt_batch, max_batch=max_batch)
    message = f"opt_batch={opt_batch}, engine.max_batch={max_batch}: expected 1 <= opt_batch"
    with pytest.raises(ConfigError, match=message):
        make_profiles(config, max_length=MAX_LENGTH)


# The choice of runtimes.


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Return a function that says which runtimes are installed and which GPU there is."""

    def set_up(*installed: str, gpu: Gpu | None) -> None:
        monkeypatch.setattr(build_stage, "find_gpu", lambda: gpu)
        monkeypatch.setattr(build_stage, "is_installed", lambda module: module in installed)

    return set_up


def chosen(runtime: EngineChoice) -> tuple[tuple[str, ...], dict[str, str]]:
    """The runtimes to build for, and the reasons for those left out."""
    plan = plan_build(engine_config(runtime), max_length=MAX_LENGTH)
    assert plan.profiles == make_profiles(engine_config(), max_length=MAX_LENGTH)
    return plan.runtimes, {item.runtime: item.reason for item in plan.not_built}


def test_auto_without_gpu(machine: Callable[..., None]) -> None:
    machine("tensorrt", "tensorrt_rtx", gpu=None)
    runtimes, reasons = chosen(EngineChoice.auto)
    assert runtimes == ("tensorrt_rtx",)
    assert reasons == {"tensorrt": "no CUDA device on this machine"}


def test_auto_with_everything(machine: Callable[..., None]) -> None:
    machine("tensorrt", "tensorrt_rtx", gpu=ADA)
    assert chosen(EngineChoice.auto) == (("tensorrt", "tensorrt_rtx"), {})


def test_auto_with_nothing(machine: Callable[..., None]) -> None:
    machine(gpu=None)
    runtimes, reasons = chosen(EngineChoice.auto)
    assert runtimes == ()
    assert "tensorrt is not installed" in reasons["tensorrt"]
    assert "tensorrt-rtx is not installed (extra: rtx)" in reasons["tensorrt_rtx"]


def test_onnxruntime_builds_nothing(machine: Callable[..., None]) -> None:
    machine("tensorrt", "tensorrt_rtx", gpu=ADA)
    assert chosen(EngineChoice.onnxruntime) == ((), {})


@pytest.mark.parametrize("runtime", [EngineChoice.tensorrt, EngineChoice.tensorrt_rtx])
def test_one_by_name(machine: Callable[..., None], runtime: EngineChoice) -> None:
    machine("tensorrt", "tensorrt_rtx", gpu=ADA)
    assert chosen(runtime) == ((runtime.value,), {})


@pytest.mark.parametrize("gpu", [HOPPER, TURING])
def test_tensorrt_rtx_beside_a_gpu_that_it_does_not_run_on(
    machine: Callable[..., None], gpu: Gpu
) -> None:
    machine("tensorrt", "tensorrt_rtx", gpu=gpu)
    runtimes, reasons = chosen(EngineChoice.auto)
    assert runtimes == ("tensorrt",)
    assert gpu.name in reasons["tensorrt_rtx"]
    assert "use engine=tensorrt" in reasons["tensorrt_rtx"]
    with pytest.raises(BuildError, match=rf"engine=tensorrt_rtx: .*{gpu.name} has .*=tensorrt\b"):
        chosen(EngineChoice.tensorrt_rtx)
    assert chosen(EngineChoice.tensorrt) == (("tensorrt",), {})


@pytest.mark.parametrize("gpu", [None, ADA, BLACKWELL])
def test_tensorrt_rtx_builds_without_a_gpu_and_beside_its_own(
    machine: Callable[..., None], gpu: Gpu | None
) -> None:
    machine("tensorrt_rtx", gpu=gpu)
    assert chosen(EngineChoice.tensorrt_rtx) == (("tensorrt_rtx",), {})


@pytest.mark.parametrize(
    ("runtime", "installed", "message"),
    [
        (EngineChoice.tensorrt, [], r"engine=tensorrt: .*tensorrt is not installed.*engine=auto"),
        (EngineChoice.tensorrt, ["tensorrt"], r"engine=tensorrt: no CUDA device.*engine=auto"),
        (EngineChoice.tensorrt_rtx, [], r"engine=tensorrt_rtx: .*not installed.*engine=auto"),
    ],
)
def test_one_by_name_that_cannot_be_built(
    machine: Callable[..., None], runtime: EngineChoice, installed: list[str], message: str
) -> None:
    machine(*installed, gpu=None)
    with pytest.raises(BuildError, match=message):
        chosen(runtime)


# Real builds.


def build_rtx(model: OnnxModel, out_dir: Path) -> Engine:
    """Build a TensorRT-RTX plan with the default profiles."""
    config = engine_config(EngineChoice.tensorrt_rtx)
    profiles = make_profiles(config, max_length=MAX_LENGTH)
    return build(model, "tensorrt_rtx", profiles, config, out_dir / "cache", out_dir / "engines")


def check_engine(engine: Engine, model: OnnxModel) -> None:
    assert engine.path.name == "tensorrt_rtx-ampere_plus.plan"
    assert engine.path.stat().st_size > 100_000
    assert engine.sha256 == sha256_file(engine.path)
    assert engine.source_sha256 == model.sha256
    assert engine.target == "ampere_plus"
    assert engine.runtime_version.count(".") >= 2
    assert [(s.name, s.dtype, s.shape) for s in engine.inputs] == [
        (s.name, "int64", ("batch", "sequence")) for s in model.inputs
    ]
    (output,) = engine.outputs
    assert (output.name, output.dtype) == ("sentence_embedding", "float")
    assert output.shape == ("batch", 32)


@pytest.mark.slow
@needs_rtx
def test_rtx_plan_of_fp32(tiny_fp32: OnnxModel, tmp_path: Path) -> None:
    engine = build_rtx(tiny_fp32, tmp_path)
    check_engine(engine, tiny_fp32)
    assert engine.layer_types["float"] > 50
    assert "int8" not in engine.layer_types


@pytest.mark.slow
@needs_rtx
def test_rtx_plan_of_int8(tiny_int8: Graphs, tmp_path: Path) -> None:
    engine = build_rtx(tiny_int8.buildable, tmp_path)
    check_engine(engine, tiny_int8.buildable)
    # 12 weights and the words' table, and the activations: shared by Q, K and V, one a GEMM
    # elsewhere (4 in a layer)
    assert engine.layer_types["int8"] == 12 + 1 + 2 * 4


# Builds that go wrong.


def request(model: Path) -> BuildRequest:
    return BuildRequest(
        runtime="tensorrt_rtx",
        model=model,
        plan=model.with_name("out.plan"),
        profiles=(Profile(min=(1, 1), opt=(2, 4), max=(4, 8)),),
        workspace_mib=256,
        optimization_level=None,
        timing_cache=None,
    )


def save_graph_of(node: onnx.NodeProto, path: Path) -> Path:
    """Write a graph of one node, float [batch, sequence] in and out."""
    shape = ["batch", "sequence"]
    graph = helper.make_graph(
        [node],
        "one_node",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)],
    )
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("my.domain", 1)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=10), path)
    return path


@pytest.mark.slow
@needs_rtx
def test_corrupt_onnx(tmp_path: Path, tiny_fp32: OnnxModel) -> None:
    model = tmp_path / "half.onnx"
    content = tiny_fp32.path.read_bytes()
    model.write_bytes(content[: len(content) // 2])
    with pytest.raises(BuildError, match=r"tensorrt_rtx cannot build half\.onnx: .*pars") as caught:
        run_build(request(model), timeout_s=120)
    assert "\n" not in str(caught.value)
    assert not model.with_name("out.plan").exists()


@pytest.mark.slow
@needs_rtx
def test_unsupported_op(tmp_path: Path) -> None:
    node = helper.make_node("Frobnicate", ["x"], ["y"], name="the_odd_node", domain="my.domain")
    model = save_graph_of(node, tmp_path / "odd.onnx")
    message = r"tensorrt_rtx cannot build odd\.onnx: .*(Frobnicate|the_odd_node)"
    with pytest.raises(BuildError, match=message):
        run_build(request(model), timeout_s=120)


@pytest.mark.slow
@needs_rtx
def test_missing_onnx(tmp_path: Path) -> None:
    with pytest.raises(BuildError, match=r"cannot build gone\.onnx: .*gone\.onnx"):
        run_build(request(tmp_path / "gone.onnx"), timeout_s=120)


@pytest.mark.slow
@needs_rtx
def test_plan_with_other_tensors_than_the_graph(tmp_path: Path, tiny_fp32: OnnxModel) -> None:
    node = helper.make_node("Relu", ["x"], ["y"])
    model = replace(tiny_fp32, path=save_graph_of(node, tmp_path / "relu.onnx"))
    with pytest.raises(BuildError, match=r"tensors are \['x', 'y'\], expected .*'input_ids'"):
        build_rtx(model, tmp_path)


def crash(_sender: Connection, _request: BuildRequest) -> None:
    os.kill(os.getpid(), signal.SIGSEGV)


def leave(_sender: Connection, _request: BuildRequest) -> None:
    os._exit(3)


def sleep(_sender: Connection, _request: BuildRequest) -> None:
    time.sleep(600)


@pytest.mark.slow
def test_child_that_crashes(tmp_path: Path) -> None:
    message = r"tensorrt_rtx ended while building m\.onnx: killed by SIGSEGV; .*engine=onnxruntime"
    with pytest.raises(BuildError, match=message):
        run_build(request(tmp_path / "m.onnx"), timeout_s=60, child=crash)


@pytest.mark.slow
def test_child_that_exits(tmp_path: Path) -> None:
    with pytest.raises(BuildError, match="exit code 3"):
        run_build(request(tmp_path / "m.onnx"), timeout_s=60, child=leave)


@pytest.mark.slow
def test_child_that_hangs(tmp_path: Path) -> None:
    with pytest.raises(BuildError, match=r"still building m\.onnx after 2 s; .*engine\.timeout_s"):
        run_build(request(tmp_path / "m.onnx"), timeout_s=2, child=sleep)
    assert multiprocessing.active_children() == []


# What keeps a plan from running.


@pytest.fixture
def obstacle(monkeypatch: pytest.MonkeyPatch) -> Callable[..., str | None]:
    """Return ``obstacle`` for a GPU, with version 1.7.0 of every runtime installed."""

    def ask(runtime: str, version: str, target: str, *, gpu: Gpu | None) -> str | None:
        module = ModuleType(runtime)
        module.__dict__["__version__"] = "1.7.0"
        monkeypatch.setitem(sys.modules, runtime, module)
        monkeypatch.setattr(tensorrt_engine, "find_gpu", lambda: gpu)
        monkeypatch.setattr(tensorrt_engine, "is_installed", lambda _module: True)
        monkeypatch.setattr(tensorrt_engine, "missing", lambda: None)
        return tensorrt_engine.obstacle(runtime, version, target)

    return ask


def test_no_obstacle(obstacle: Callable[..., str | None]) -> None:
    assert obstacle("tensorrt_rtx", "1.7.0", "ampere_plus", gpu=ADA) is None
    assert obstacle("tensorrt_rtx", "1.7.0", "ampere_plus", gpu=BLACKWELL) is None
    assert obstacle("tensorrt", "1.7.0", "sm_89", gpu=ADA) is None
    assert obstacle("tensorrt", "1.7.0", "sm_90", gpu=HOPPER) is None


@pytest.mark.parametrize(
    ("runtime", "version", "target", "gpu", "reason"),
    [
        ("tensorrt", "1.7.0", "sm_89", None, "no CUDA device on this machine"),
        ("tensorrt_rtx", "1.7.0", "ampere_plus", None, "no CUDA device on this machine"),
        ("tensorrt", "1.6.0", "sm_89", ADA, "with TensorRT 1.6.0, this is sm_89 (NVIDIA L4) with"),
        ("tensorrt_rtx", "1.6.0", "ampere_plus", ADA, "ampere_plus with TensorRT-RTX 1.6.0, this"),
        ("tensorrt_rtx", "1.7.0", "ampere_plus", HOPPER, "NVIDIA H200 has 9.0"),
        ("tensorrt_rtx", "1.7.0", "ampere_plus", TURING, "Tesla T4 has 7.5"),
        (
            "tensorrt",
            "1.7.0",
            "sm_89",
            HOPPER,
            "built for sm_89 with TensorRT 1.7.0, this is sm_90",
        ),
    ],
)
def test_obstacles(
    obstacle: Callable[..., str | None],
    runtime: str,
    version: str,
    target: str,
    gpu: Gpu | None,
    reason: str,
) -> None:
    assert reason in (obstacle(runtime, version, target, gpu=gpu) or "")


def test_runtime_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tensorrt_engine, "find_gpu", lambda: ADA)
    monkeypatch.setattr(tensorrt_engine, "is_installed", lambda _module: False)
    reason = tensorrt_engine.obstacle("tensorrt_rtx", "1.7.0", "ampere_plus")
    assert reason == "Python package tensorrt-rtx is not installed"
