"""The lean runtime: which plans it is given, and what of its real bindings we rely on."""

import importlib
import subprocess
import sys
from types import ModuleType

import pytest

from pipeline.engines import lean
from pipeline.engines.gpu import Gpu

ADA = Gpu(name="NVIDIA L4", compute_capability=(8, 9), driver="580.1")
WHY = "Python package tensorrt is not installed"


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """A GPU, and TensorRT's lean runtime in place of TensorRT."""
    installed = ModuleType("tensorrt_lean")
    installed.__dict__["__version__"] = "11.4.0.106"
    monkeypatch.setitem(sys.modules, "tensorrt_lean", installed)
    monkeypatch.setattr(lean, "is_installed", lambda name: name == "tensorrt_lean")
    monkeypatch.setattr(lean, "find_gpu", lambda: ADA)
    monkeypatch.setattr(lean, "missing", lambda: None)
    monkeypatch.setattr("pipeline.engines.tensorrt.obstacle", lambda *_: WHY)


@pytest.mark.parametrize(
    ("version", "target", "compatible", "why"),
    [
        ("11.4.0.106", "sm_89", True, None),
        ("11.1.0", "sm_89", True, None),
        ("11.4.0.107", "sm_89", True, None),  # a build of the same version
        ("11.5.0", "sm_89", True, "built for sm_89 with TensorRT 11.5.0, this is sm_89"),
        ("10.13.0", "sm_89", True, "with the lean runtime of TensorRT 11.4.0.106"),
        ("11.1.0", "sm_90", True, "built for sm_90 with TensorRT 11.1.0, this is sm_89"),
        ("11.1.0", "sm_89", False, "takes plans of engine.version_compatible=true only"),
    ],
)
def test_which_plans(
    machine: None, version: str, target: str, compatible: bool, why: str | None
) -> None:
    module, reason = lean.plan_module("tensorrt", version, target, version_compatible=compatible)
    if why is None:
        assert (module, reason) == ("tensorrt_lean", None)
    else:
        assert module is None
        assert why in str(reason)


def test_what_built_it_comes_first(machine: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.engines.tensorrt.obstacle", lambda *_: None)
    found = lean.plan_module("tensorrt", "11.1.0", "sm_89", version_compatible=True)
    assert found == ("tensorrt", None)


def test_not_for_tensorrt_rtx(machine: None) -> None:
    found = lean.plan_module("tensorrt_rtx", "1.7.1", "ampere_plus", version_compatible=True)
    assert found == (None, WHY)


def test_without_a_gpu(machine: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its Runtime crashes there when it is given a plan."""
    monkeypatch.setattr(lean, "find_gpu", lambda: None)
    found = lean.plan_module("tensorrt", "11.4.0", "sm_89", version_compatible=True)
    assert found == (None, WHY)


def test_without_cuda_bindings(machine: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lean, "missing", lambda: "not installed (extra: gpu)")
    found = lean.plan_module("tensorrt", "11.4.0.106", "sm_89", version_compatible=True)
    assert found == (None, "not installed (extra: gpu)")


def test_the_real_bindings() -> None:
    """What ``TensorRTEncoder`` calls is there; in a process of its own, since it is native code."""
    module = lean.lean_module()
    if module is None:
        pytest.skip("tensorrt-lean-cu13-bindings is not installed")
    code = f"""
import {module} as lean
for owner, names in {{
    lean.ICudaEngine: "num_io_tensors get_tensor_name get_tensor_mode get_tensor_shape "
        "get_tensor_profile_shape num_optimization_profiles create_execution_context "
        "get_device_memory_size_for_profile_v2",
    lean.IExecutionContext: "set_input_shape set_tensor_address execute_async_v3 "
        "set_optimization_profile_async set_device_memory",
    lean.ExecutionContextAllocationStrategy: "USER_MANAGED",
    lean.Runtime: "deserialize_cuda_engine",
    lean: "TensorIOMode ILogger ExecutionContextAllocationStrategy",
    lean.BuilderFlag: "VERSION_COMPATIBLE EXCLUDE_LEAN_RUNTIME",
}}.items():
    for name in names.split():
        getattr(owner, name)
print(lean.__version__, hasattr(lean, "Builder"))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    version, builds = done.stdout.split()
    assert int(version.split(".")[0]) >= 10
    assert builds == "False"
    assert importlib.util.find_spec(module) is not None
