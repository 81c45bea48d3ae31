"""A graph for CUDA in ONNX Runtime's real CUDA provider, on top of a stand-in for CUDA itself."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pytest
from cuda_library import run_on_library

from pipeline.contracts import OnnxModel, SourceModel
from pipeline.stages.fuse import fuse

SHAPES = [(2, length) for length in range(8, 24)]


@pytest.fixture(scope="module")
def fused(
    tiny_fp32: OnnxModel,
    tiny_source: SourceModel,
    calibration_texts: Sequence[str],
    tmp_path_factory: pytest.TempPathFactory,
) -> OnnxModel:
    return fuse(tiny_fp32, tiny_source, calibration_texts, tmp_path_factory.mktemp("fuse") / "out")


def test_graphs_are_captured_while_threads_copy(cuda_library: Path, fused: OnnxModel) -> None:
    """ONNX Runtime captures in the mode that forbids other threads much of CUDA meanwhile."""
    said, calls = run_on_library(cuda_library, fused.path, SHAPES)
    assert said["providers"][0] == "CUDAExecutionProvider"
    assert said["graphs"] == len(SHAPES)
    begun = [call for call in calls if call.name == "cudaStreamBeginCapture"]
    assert len(begun) >= len(SHAPES)
    assert {call.detail for call in begun} == {"global"}
    assert [call for call in calls if call.name == "forbidden"] == []
    during = Counter(call.name for call in calls if call.captured)
    assert during["kernel"]
    assert during["cublasGemmEx"]
    assert {call.thread for call in calls if call.captured} == {begun[0].thread}


def test_a_capture_that_another_library_spoils_ends_graphs_alone(
    cuda_library: Path, fused: OnnxModel
) -> None:
    said, calls = run_on_library(
        cuda_library, fused.path, SHAPES[:4], CUDA_LIBRARY_BROKEN_CAPTURES="1"
    )
    assert said["graphs"] == 0
    ends = [call.detail for call in calls if call.name == "cudaStreamEndCapture"]
    assert ends == ["invalidated"]
