"""bf16: what an engine computes in it, and that the form for CPUs rounds exactly as it does."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from graph_types import infer_types
from onnx.reference import ReferenceEvaluator

from pipeline.config import NumericType
from pipeline.contracts import Graphs, OnnxModel, SourceModel
from pipeline.engines.onnxruntime import OnnxRuntimeEncoder
from pipeline.errors import CastError
from pipeline.graph.emulated import emulate_bf16
from pipeline.graph.files import load_graph, save_graph
from pipeline.graph.half import cast_to_half
from pipeline.graph.half_types import BF16, BF16_EXACT_SUMS
from pipeline.stages import cast as stage
from pipeline.stages.cast import cast_bf16
from pipeline.stages.optimize import optimize
from pipeline.text.tokens import TokenBatch
from pipeline.vectors import FloatArray, row_cosines

FLOAT, BFLOAT = onnx.TensorProto.FLOAT, onnx.TensorProto.BFLOAT16


@pytest.fixture(scope="module")
def graphs(
    tiny_fp32: OnnxModel,
    tiny_source: SourceModel,
    calibration_texts: Sequence[str],
    tmp_path_factory: pytest.TempPathFactory,
) -> Graphs:
    out_dir = tmp_path_factory.mktemp("bf16") / "out"
    return cast_bf16(tiny_fp32, tiny_source, calibration_texts, out_dir)


def bf16(values: Any) -> FloatArray:
    rounded: FloatArray = np.asarray(values, np.float32).astype(ml_dtypes.bfloat16)
    return rounded.astype(np.float32)


def test_engines_get_bf16_gemms_and_fp32_norms(graphs: Graphs, tiny_fp32: OnnxModel) -> None:
    graph, types = infer_types(graphs.buildable)
    gemms = [node for node in graph.node if node.op_type == "MatMul"]
    assert len(gemms) == 16
    assert {types[name] for node in gemms for name in (*node.input, *node.output)} == {BFLOAT}
    exact = [n for n in graph.node if n.op_type in ("LayerNormalization", "Softmax", "ReduceSum")]
    assert {types[node.output[0]] for node in exact} == {FLOAT}
    for model in (graphs.portable, graphs.buildable):
        assert (model.inputs, model.outputs) == (tiny_fp32.inputs, tiny_fp32.outputs)
        assert model.precision is NumericType.bf16
        assert model.source_sha256 == tiny_fp32.sha256


def test_weights_are_bf16_in_both_files(graphs: Graphs, tiny_fp32: OnnxModel) -> None:
    for model in (graphs.portable, graphs.buildable):
        assert model.path.stat().st_size < 0.6 * tiny_fp32.path.stat().st_size


def test_the_form_for_cpus_computes_nothing_in_bf16(graphs: Graphs) -> None:
    graph, types = infer_types(graphs.portable)
    computing = [n for n in graph.node if n.op_type in ("MatMul", "Add", "Mul", "Gelu", "Div")]
    assert computing
    assert BFLOAT not in {types[name] for n in computing for name in (*n.input, *n.output)}


@pytest.fixture
def small() -> ir.Model:
    """A GEMM with its bias, GELU, a sum of two tensors, a norm and a GEMM behind it."""
    rng = np.random.default_rng(0)
    model = onnx.parser.parse_model("""
        <ir_version: 10, opset_import: ["" : 20]>
        small (float[n, 8] x) => (float[n, 4] y) {
            product = MatMul(x, w0)  biased = Add(product, b0)  active = Gelu(biased)
            total = Add(active, product)  normed = LayerNormalization(total, gamma)
            last = MatMul(normed, w1)  scores = Softmax(last)  y = Identity(scores)
        }
    """)
    for name, shape in (("w0", (8, 8)), ("b0", (8,)), ("gamma", (8,)), ("w1", (8, 4))):
        array = rng.standard_normal(shape).astype(np.float32)
        model.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    for node in model.graph.node:
        node.name = f"node_{node.output[0]}"
    return ir.from_proto(onnx.shape_inference.infer_shapes(model))


@pytest.mark.parametrize("exact_sums", [False, True])
def test_every_rounding_is_that_of_ml_dtypes(small: ir.Model, exact_sums: bool) -> None:
    weights = {name: bf16(value.const_value.numpy()) for name, value in _initializers(small)}
    gamma = small.graph.initializers["gamma"].const_value
    assert gamma is not None
    cast_to_half(small, half=BF16_EXACT_SUMS if exact_sums else BF16)
    emulate_bf16(small)
    inner = {v.name: v for node in small.graph for v in node.outputs}
    watched = ["product.rounded", "biased.rounded", "active.rounded", "total", "last.rounded"]
    small.graph.outputs.extend(inner[name] for name in watched)
    session = onnxruntime.InferenceSession(ir.to_proto(small).SerializeToString())
    x = np.random.default_rng(1).standard_normal((5, 8)).astype(np.float32)
    # ONNX Runtime hands bf16 out as its bits; the fp32 readers of them tell the values.
    outputs = dict(zip([o.name for o in session.get_outputs()], _run(session, x), strict=True))
    product = bf16(bf16(x) @ weights["w0"])
    biased = bf16(product + weights["b0"])
    active = bf16(_gelu(biased))
    total = active + product if exact_sums else bf16(active + product)
    centred = total - total.mean(axis=1, keepdims=True)
    normed = centred / np.sqrt(np.square(centred).mean(axis=1, keepdims=True) + 1e-5)
    last = bf16(bf16(normed * gamma.numpy()) @ weights["w1"])
    shares = np.exp(last - last.max(axis=1, keepdims=True))
    expected = shares / shares.sum(axis=1, keepdims=True)
    # Sums in another order may round to the neighbouring number, one in 256 away.
    np.testing.assert_allclose(outputs["y"], expected, rtol=2**-7)
    seen = outputs["total"] if exact_sums else bf16(outputs["total"])
    np.testing.assert_allclose(seen, total, rtol=2**-7, atol=1e-3)


def _initializers(model: ir.Model) -> list[tuple[str, Any]]:
    return [(str(name), value) for name, value in model.graph.initializers.items()]


def _gelu(x: FloatArray) -> FloatArray:
    from scipy.special import erf

    result: FloatArray = (x / 2 * (1 + erf(x / np.sqrt(2)))).astype(np.float32)
    return result


def _run(session: Any, x: FloatArray) -> list[Any]:
    names = [output.name for output in session.get_outputs()]
    floats = [o.name for o in session.get_outputs() if o.type == "tensor(float)"]
    values = dict(zip(floats, session.run(floats, {"x": x}), strict=True))
    return [values.get(name) for name in names]


def test_the_largest_number_is_that_of_ml_dtypes() -> None:
    largest = np.float32(BF16.largest)
    assert bf16(largest) == largest
    assert np.isinf(bf16(np.float32(BF16.largest * (1 + 2**-8))))
    assert np.isfinite(BF16.round(np.array([3.4e38, -3.4e38], np.float32)).astype(np.float32)).all()


def test_a_second_time_changes_nothing(graphs: Graphs) -> None:
    assert emulate_bf16(load_graph(graphs.portable)) == 0


def test_what_it_computes_stays_close_and_is_not_fp32(
    graphs: Graphs, tiny_fp32: OnnxModel, evaluation_batch: TokenBatch
) -> None:
    expected = OnnxRuntimeEncoder(tiny_fp32.path).encode(evaluation_batch)
    observed = OnnxRuntimeEncoder(graphs.portable.path).encode(evaluation_batch)
    assert observed.dtype == np.float32
    assert 0.999 <= row_cosines(expected, observed).min() < 0.9999999


@pytest.mark.slow
def test_rewrites_for_engines_are_checked_though_no_cpu_runs_bf16(
    graphs: Graphs, tiny_source: SourceModel, calibration_texts: Sequence[str], tmp_path: Path
) -> None:
    made = optimize(graphs, tiny_source, calibration_texts, tmp_path / "out")
    assert made.buildable.path.name == "engine.onnx"
    assert made.portable == graphs.portable


@pytest.mark.slow
def test_the_residual_stream_stays_in_fp32_where_text_needs_it(
    tiny_fp32: OnnxModel,
    tiny_source: SourceModel,
    calibration_texts: Sequence[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    graphs: Graphs,
) -> None:
    monkeypatch.setattr(stage, "ENOUGH_COSINE", 1.0)
    wide = cast_bf16(tiny_fp32, tiny_source, calibration_texts, tmp_path / "out")
    counts = []
    for model in (graphs.buildable, wide.buildable):
        graph, types = infer_types(model)
        made = {name for node in graph.node for name in node.output}
        sums = [n for n in graph.node if n.op_type == "Add" and made.issuperset(n.input)]
        counts.append(sum(types[n.output[0]] == FLOAT for n in sums))
    assert counts[0] < counts[1]


@pytest.mark.slow
def test_a_model_made_to_overflow_fp16_passes(
    make_tiny: Callable[..., Path],
    resolve_dir: Callable[[Path], SourceModel],
    export_torch: Callable[[SourceModel], OnnxModel],
    calibration_texts: Sequence[str],
    evaluation_batch: TokenBatch,
    tmp_path: Path,
) -> None:
    def plant(bert: Any) -> None:
        bert.encoder.layer[1].intermediate.dense.bias[5] = 80_000.0

    source = resolve_dir(make_tiny(plant))
    fp32 = export_torch(source)
    expected = OnnxRuntimeEncoder(fp32.path).encode(evaluation_batch)
    naive = load_graph(fp32)
    cast_to_half(naive)
    half = save_graph(
        naive, tmp_path / "half.onnx", precision=NumericType.fp16, source_sha256=fp32.sha256
    )
    feed = evaluation_batch.feed([spec.name for spec in half.inputs])
    evaluator: Any = ReferenceEvaluator(str(half.path))
    with np.errstate(all="ignore"):
        assert not np.isfinite(evaluator.run(None, feed)[0]).all()
    made = cast_bf16(fp32, source, calibration_texts, tmp_path / "out")
    observed = OnnxRuntimeEncoder(made.portable.path).encode(evaluation_batch)
    assert np.isfinite(observed).all()
    assert row_cosines(expected, observed).min() >= 0.999


def test_a_name_that_no_tensor_has_is_refused(
    tiny_fp32: OnnxModel, tiny_source: SourceModel, tmp_path: Path
) -> None:
    with pytest.raises(CastError, match=r"precision\.keep_fp32: no tensor .* '\*mlpp\*'"):
        cast_bf16(tiny_fp32, tiny_source, ["a"], tmp_path / "out", keep=["*mlpp*"])
