"""ONNX Runtime is asked for CUDA the way the reports say it ran."""

from pathlib import Path
from typing import Any

import onnxruntime as ort
import pytest

from pipeline.engines import onnxruntime as engine


def test_fp32_on_cuda_is_not_tf32(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked: list[Any] = []
    monkeypatch.setattr(engine, "has_cuda_driver", lambda: True)
    monkeypatch.setattr(ort, "get_available_providers", lambda: ["CUDAExecutionProvider"])
    monkeypatch.setattr(ort, "preload_dlls", lambda: None)
    monkeypatch.setattr(ort, "InferenceSession", lambda *_, providers: asked.extend(providers))
    engine.open_session(tmp_path / "model.onnx", cuda=True)
    settings = {"use_tf32": "0", "arena_extend_strategy": "kSameAsRequested"}
    assert asked == [("CUDAExecutionProvider", settings), "CPUExecutionProvider"]
    asked.clear()
    engine.open_session(tmp_path / "model.onnx", cuda=True, graphs=True)
    assert asked[0] == ("CUDAExecutionProvider", settings | {"enable_cuda_graph": "1"})
