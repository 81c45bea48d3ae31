"""The engines' graph in the bundle: its weights once on disk, read by whoever reads ONNX."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from pipeline.contracts import Graphs, OnnxModel, SourceModel
from pipeline.engines.gpu import is_installed
from pipeline.engines.onnxruntime import OnnxRuntimeEncoder
from pipeline.graph import shared_weights
from pipeline.graph.files import load_graph, model_sha256
from pipeline.graph.shared_weights import share_weights
from pipeline.stages.optimize import optimize
from pipeline.text.tokens import TokenBatch


@pytest.fixture(scope="module")
def graphs(
    tiny_source: SourceModel,
    tiny_fp32: OnnxModel,
    evaluation_texts: tuple[str, ...],
    tmp_path_factory: pytest.TempPathFactory,
) -> Graphs:
    """An fp32 model.onnx with fused attention, and the graph that TensorRT takes."""
    same = Graphs(portable=tiny_fp32, buildable=tiny_fp32)
    return optimize(same, tiny_source, evaluation_texts, tmp_path_factory.mktemp("fast") / "out")


def test_weights_are_on_disk_once(graphs: Graphs, tmp_path: Path) -> None:
    shared = share_weights(graphs, tmp_path)
    path, data = shared.buildable.path, tmp_path / "tensorrt" / "model.onnx.data"
    assert path == tmp_path / "tensorrt" / "model.onnx"
    assert data.samefile(graphs.portable.path)
    assert path.stat().st_size < 0.2 * graphs.portable.path.stat().st_size
    assert shared.portable is graphs.portable
    assert shared.buildable.sha256 == model_sha256(path) != graphs.buildable.sha256
    assert shared.buildable.source_sha256 == graphs.buildable.sha256


def test_it_is_the_same_graph(graphs: Graphs, tmp_path: Path) -> None:
    before, after = (load_graph(g.buildable) for g in (graphs, share_weights(graphs, tmp_path)))
    assert [n.op_type for n in after.graph] == [n.op_type for n in before.graph]
    assert set(after.graph.initializers) == set(before.graph.initializers)
    for name, value in before.graph.initializers.items():
        twin = after.graph.initializers[name].const_value
        assert value.const_value is not None
        assert twin is not None
        np.testing.assert_array_equal(twin.numpy(), value.const_value.numpy(), strict=True)


def test_onnxruntime_and_openvino_read_it(
    graphs: Graphs, tmp_path: Path, evaluation_batch: TokenBatch
) -> None:
    """At offsets that no one aligned: the tensors lie in a protobuf message."""
    path = share_weights(graphs, tmp_path).buildable.path
    tensors = [value.const_value for value in ir.load(path).graph.initializers.values()]
    offsets = [t.offset for t in tensors if isinstance(t, ir.ExternalTensor)]
    assert any(offset is not None and offset % 4 for offset in offsets)
    expected = OnnxRuntimeEncoder(graphs.buildable.path).encode(evaluation_batch)
    np.testing.assert_array_equal(OnnxRuntimeEncoder(path).encode(evaluation_batch), expected)
    pytest.importorskip("openvino")
    from pipeline.config import NumericType
    from pipeline.engines.openvino import OpenVINOEncoder

    seen = OpenVINOEncoder(path, NumericType.fp32).encode(evaluation_batch)
    np.testing.assert_allclose(seen, expected, atol=1e-5)


def test_a_graph_that_has_little_in_common_is_one_file(
    graphs: Graphs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A copy without hard links would hold more than two graphs do."""
    monkeypatch.setattr(shared_weights, "LEAST_SHARE", 1.1)
    shared = share_weights(graphs, tmp_path)
    assert [path.name for path in (tmp_path / "tensorrt").iterdir()] == ["model.onnx"]
    assert shared.buildable.path.stat().st_size > 0.9 * graphs.buildable.path.stat().st_size


def test_weights_in_a_file_of_their_own(graphs: Graphs, tmp_path: Path) -> None:
    """What model.onnx is beyond 2 GiB."""
    path = tmp_path / "large" / "model.onnx"
    path.parent.mkdir()
    graph = load_graph(graphs.portable)
    ir.save(graph, path, external_data="model.onnx.data")
    large = Graphs(
        portable=OnnxModel(
            path=path,
            sha256=model_sha256(path),
            precision=graphs.portable.precision,
            inputs=graphs.portable.inputs,
            outputs=graphs.portable.outputs,
            source_sha256=graphs.portable.source_sha256,
        ),
        buildable=graphs.buildable,
    )
    shared = share_weights(large, tmp_path)
    data = tmp_path / "tensorrt" / "model.onnx.data"
    assert data.samefile(path.with_name("model.onnx.data"))
    before, after = load_graph(graphs.buildable), load_graph(shared.buildable)
    for name, value in before.graph.initializers.items():
        twin = after.graph.initializers[name].const_value
        assert value.const_value is not None
        assert twin is not None
        np.testing.assert_array_equal(twin.numpy(), value.const_value.numpy(), strict=True)


@pytest.mark.slow
@pytest.mark.skipif(not is_installed("tensorrt_rtx"), reason="tensorrt_rtx is not installed")
def test_polygraphy_takes_it_as_it_is(graphs: Graphs, tmp_path: Path) -> None:
    """The command of docs/build.md; running the plan would need a GPU."""
    path = share_weights(graphs, tmp_path).buildable.path
    shapes = [f"{spec.name}:[{{}}]" for spec in graphs.buildable.inputs]
    polygraphy = Path(sys.executable).with_name("polygraphy")
    command = [str(polygraphy), "convert", str(path), "--convert-to", "trt"]
    for option, shape in (("min", "1,1"), ("opt", "4,16"), ("max", "8,48")):
        command += [f"--trt-{option}-shapes", *(each.format(shape) for each in shapes)]
    plan = tmp_path / "model.plan"
    environment = os.environ | {"POLYGRAPHY_USE_TENSORRT_RTX": "1"}
    done = subprocess.run(
        [*command, "--strongly-typed", "-o", str(plan)],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert plan.stat().st_size > 1000
