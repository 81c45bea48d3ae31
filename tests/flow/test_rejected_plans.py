"""A plan that belies its label ends a run with exit code 2: its kernel named, nothing published.

The tiny model, real builds by TensorRT-RTX, and three graphs made to fail: a Q/DQ left out, an
attention that cannot fuse, an fp32 plan named fp16.
"""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import command_line
import onnx
import pytest

from pipeline.config import NumericType
from pipeline.contracts import Graphs, OnnxModel
from pipeline.engines.gpu import is_installed
from pipeline.stages import cast, optimize

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not is_installed("tensorrt_rtx"), reason="tensorrt_rtx is not installed"),
]

ENGINE = ["engine=tensorrt_rtx", "engine.sequence_buckets=[48]"]

APART = '''
import sys

import onnx

import pipeline.stages.optimize as stage
from pipeline.__main__ import main

honest = stage.optimize


def spoiled(*arguments, **named):
    """Divide the first block's probabilities by the largest of each column, over all rows."""
    graphs = honest(*arguments, **named)
    model = onnx.load(graphs.buildable.path)
    softmax = next(node for node in model.graph.node if node.op_type == "Softmax")
    place = list(model.graph.node).index(softmax) + 1
    given = softmax.output[0]
    softmax.output[0] = "probabilities"
    for node in (
        onnx.helper.make_node("Div", ["probabilities", "largest"], [given], name="divided"),
        onnx.helper.make_node("ReduceMax", ["probabilities", "rows"], ["largest"], name="largest"),
    ):
        model.graph.node.insert(place, node)
    model.graph.initializer.append(onnx.helper.make_tensor("rows", 7, [1], [2]))
    onnx.save(model, graphs.buildable.path)
    return graphs


stage.optimize = spoiled
sys.exit(main())
'''
"""The command, with an attention that no kernel computes whole."""


def test_an_attention_in_parts_ends_the_command(tmp_path: Path, tiny_dir: Path) -> None:
    arguments = [*command_line.settings(tiny_dir), "precision=fp16", *ENGINE]
    done = command_line.run_command(*arguments, cwd=tmp_path, program=APART)
    assert done.returncode == 2, done.stderr
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("gate failed")]
    assert line.startswith("gate failed: tensorrt_rtx: plan.attention_fused 0.5")
    assert "(validate.gates.plan.attention_fused.fp16): attention of block 0 is in parts (" in line
    tiny = tmp_path / "artifacts" / "tiny"
    assert [path.name for path in tiny.glob("[!.]*")] == ["fp16.rejected"]


@pytest.fixture
def failed(tmp_path: Path, tiny_dir: Path) -> Callable[[str], tuple[str, ...]]:
    """Return a function that runs the tiny model here and returns what failed, if unpublished."""

    def run(precision: str) -> tuple[str, ...]:
        outcome = command_line.outcome_of(
            *command_line.settings(tiny_dir),
            *(f"precision={precision}", *ENGINE, *command_line.ANY_INT8),
            f"artifacts_dir={tmp_path / 'artifacts'}",
        )
        assert not outcome.published
        assert not (tmp_path / "artifacts" / "tiny" / precision).exists()
        return outcome.report.failed_gates

    return run


def test_a_qdq_left_out(
    failed: Callable[[str], tuple[str, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = optimize.optimize

    def spoiled(*arguments: Any) -> Graphs:
        graphs = honest(*arguments)
        model = onnx.load(graphs.buildable.path)
        makers = {name: node for node in model.graph.node for name in node.output}
        gemm = next(
            node
            for node in model.graph.node
            if node.op_type == "MatMul" and "Dequantize" in makers[node.input[0]].op_type
        )
        gemm.input[0] = makers[makers[gemm.input[0]].input[0]].input[0]
        onnx.save(model, graphs.buildable.path)
        return graphs

    monkeypatch.setattr(optimize, "optimize", spoiled)
    (line,) = failed("int8")
    assert line.startswith("tensorrt_rtx: plan.int8_gemms 0.")
    assert " computes in fp16 (" in line


def test_an_fp32_plan_named_fp16(
    failed: Callable[[str], tuple[str, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def named_fp16(model: OnnxModel, *arguments: Any, **_: Any) -> OnnxModel:
        out_dir = arguments[-1]
        out_dir.mkdir(parents=True)
        path = Path(shutil.copy(model.path, out_dir / "model.onnx"))
        return replace(model, path=path, precision=NumericType.fp16)

    monkeypatch.setattr(cast, "cast", named_fp16)
    lines = failed("fp16")
    (line,) = [line for line in lines if "plan.gemm_types" in line]
    assert line.startswith("tensorrt_rtx: plan.gemm_types 0.")
    assert " computes in fp32 (" in line
