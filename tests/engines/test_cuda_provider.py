"""A graph for CUDA in ONNX Runtime's real CUDA provider, on top of a stand-in for CUDA itself."""

from collections import Counter
from pathlib import Path

import pytest
from cuda_library import build_library, run_on_library, run_python, skip_without_provider

from pipeline.contracts import OnnxModel

SHAPES = [(2, length) for length in range(8, 24)]


def test_graphs_are_captured_while_threads_copy(cuda_library: Path, tiny_fused: OnnxModel) -> None:
    """ONNX Runtime captures in the mode that forbids other threads much of CUDA meanwhile."""
    said, calls = run_on_library(cuda_library, tiny_fused.path, SHAPES)
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
    cuda_library: Path, tiny_fused: OnnxModel
) -> None:
    said, calls = run_on_library(
        cuda_library, tiny_fused.path, SHAPES[:4], CUDA_LIBRARY_BROKEN_CAPTURES="1"
    )
    assert said["graphs"] == 0
    ends = [call.detail for call in calls if call.name == "cudaStreamEndCapture"]
    assert ends == ["invalidated"]


OPEN = """
import sys
from pathlib import Path
from pipeline.engines.onnxruntime import OnnxRuntimeEncoder

print(OnnxRuntimeEncoder(Path(sys.argv[1]), cuda=True).device)
"""


@pytest.mark.parametrize(("cudnn", "device"), [(True, "cuda"), (False, "cpu")])
def test_without_cudnn_the_cpu_runs_and_says_why(
    cudnn: bool, device: str, tiny_fused: OnnxModel, tmp_path: Path
) -> None:
    """The provider opens the graph all the same, and fails at the first attention."""
    skip_without_provider()
    library = build_library(tmp_path, cudnn=cudnn)
    said, warned = run_python(library, ["-c", OPEN, str(tiny_fused.path)])
    assert said.split() == [device]
    assert ("cuDNN is unavailable" in warned) is not cudnn
