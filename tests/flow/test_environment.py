"""The environment of a run: every dependency that is installed, and no other package."""

from importlib import metadata

import pytest

from pipeline.flow.environment import describe_environment

REQUIRED = [
    "numpy>=1.26",
    "onnxruntime-gpu>=1.20; sys_platform != 'darwin'",
    "onnxruntime>=1.20; sys_platform == 'darwin'",
    "sentence-transformers<7,>=5.7",
    'openvino>=2025.0; extra == "openvino"',
    "scipy>=1.13",
    'oras>=0.2.30; extra == "oci"',
    'pytest; extra == "dev"',
    "sentence-transformer-trt[files,oci]; extra == 'dev'",
]
INSTALLED = {
    "numpy": "2.3",
    "onnxruntime": "1.30",
    "sentence-transformers": "6.2",
    "transformers": "5.23",
    "openvino": "2026.1",
    "scipy": "1.17",
    "pytest": "9.0",
    "unrelated": "1",
}


def test_what_is_installed_of_the_dependencies(monkeypatch: pytest.MonkeyPatch) -> None:
    def version(name: str) -> str:
        try:
            return INSTALLED[name]
        except KeyError:
            raise metadata.PackageNotFoundError(name) from None

    monkeypatch.setattr(metadata, "requires", lambda _: REQUIRED)
    monkeypatch.setattr(metadata, "version", version)
    packages = describe_environment()["packages"]
    assert packages == {
        name: version for name, version in INSTALLED.items() if name not in ("pytest", "unrelated")
    }


def test_of_this_environment() -> None:
    packages = describe_environment()["packages"]
    assert {"numpy", "onnx", "scipy", "torch", "transformers", "sentence-transformers"} <= set(
        packages
    )
    assert packages["torch"] == metadata.version("torch")
