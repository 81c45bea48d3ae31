"""What a precision is chosen for, and what has no hardware there."""

from dataclasses import replace

import pytest

from pipeline.config import Device, EngineChoice, EngineConfig, NumericType, PipelineConfig
from pipeline.engines.gpu import Gpu
from pipeline.errors import BuildError, ConfigError
from pipeline.flow.choice import target as module
from pipeline.flow.choice.target import find_target, is_label

A10 = Gpu(name="NVIDIA A10", compute_capability=(8, 6), driver=None)
T4 = Gpu(name="Tesla T4", compute_capability=(7, 5), driver=None)
H200 = Gpu(name="NVIDIA H200", compute_capability=(9, 0), driver=None)


def config(target: str | None = None, engine: EngineChoice = EngineChoice.auto) -> PipelineConfig:
    return PipelineConfig(target=target, engine=EngineConfig(runtime=engine))


@pytest.fixture(autouse=True)
def everything_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "is_installed", lambda _: True)


def test_without_a_name_it_is_this_machine() -> None:
    here = find_target(config(), None)
    assert (here.label, here.device, here.peaks) == ("this machine's CPU", "cpu", None)
    assert here.lacks == {NumericType.fp8: "no CPU computes in fp8"}
    there = find_target(config(), H200)
    assert (there.label, there.device, there.peaks) == ("NVIDIA H200", "cuda", None)
    assert there.lacks == {}
    kept = config()
    kept.validate = replace(kept.validate, device=Device.cpu)
    assert find_target(kept, H200).device == "cpu"


def test_a_gpu_here_lacks_what_its_compute_capability_says() -> None:
    of_a10, of_t4 = find_target(config(), A10), find_target(config("t4"), T4)
    assert of_a10.lacks == {
        NumericType.fp8: "NVIDIA A10 (compute capability 8.6) has no fp8 hardware"
    }
    assert set(of_t4.lacks) == {NumericType.fp8, NumericType.bf16}
    assert of_t4.device == "cuda"


@pytest.mark.parametrize(
    ("name", "lacking"),
    [
        ("t4", {"bf16", "fp8"}),
        ("a10", {"fp8"}),
        ("a100", {"fp8"}),
        ("l4", set()),
        ("rtx4090", set()),
        ("rtx_pro_6000", set()),
        ("h100", set()),
    ],
)
def test_a_gpu_that_is_not_here_is_predicted(name: str, lacking: set[str]) -> None:
    found = find_target(config(name), H200)
    assert found.device is None
    assert found.peaks is not None
    assert found.peaks.name == name
    assert {kind.value for kind in found.lacks} == lacking
    assert all(why.startswith(f"{found.label} has no ") for why in found.lacks.values())


def test_bf16_on_a_cpu_needs_openvino(monkeypatch: pytest.MonkeyPatch) -> None:
    only = find_target(config("cpu", EngineChoice.onnxruntime), None).lacks
    assert only[NumericType.bf16].endswith("and engine=onnxruntime leaves OpenVINO out")
    monkeypatch.setattr(module, "is_installed", lambda _: False)
    missing = find_target(config("cpu"), None).lacks
    assert missing[NumericType.bf16].endswith("OpenVINO is not installed (extra: openvino)")


def test_an_unknown_target_names_the_choices() -> None:
    with pytest.raises(ConfigError, match=r"target=l5: no such target; choose one of cpu, t4, a10"):
        find_target(config("l5"), None)


def test_nothing_is_predicted_without_an_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match=r"target=l4: .* engine=onnxruntime builds no engine"):
        find_target(config("l4", EngineChoice.onnxruntime), None)
    monkeypatch.setattr(module, "is_installed", lambda _: False)
    with pytest.raises(BuildError, match=r"target=l4: .* tensorrt-rtx is not installed"):
        find_target(config("l4"), None)


@pytest.mark.parametrize(
    ("label", "name", "same"),
    [
        ("L4", "NVIDIA L4", True),
        ("L4", "NVIDIA L40S", False),
        ("A10", "NVIDIA A10G", False),
        ("A100", "NVIDIA A100-SXM4-80GB", True),
        ("H100", "NVIDIA H100 80GB HBM3", True),
        ("RTX 4090", "NVIDIA GeForce RTX 4090", True),
        ("RTX PRO 6000", "NVIDIA RTX PRO 6000 Blackwell Workstation Edition", True),
        ("RTX PRO 6000", "NVIDIA RTX 6000 Ada Generation", False),
    ],
)
def test_a_gpu_is_known_by_every_word_of_its_label(label: str, name: str, same: bool) -> None:
    assert is_label(label, name) is same
