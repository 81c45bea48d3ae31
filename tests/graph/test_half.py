"""Which nodes of a graph the cast to fp16 leaves in fp32, on norms in open code."""

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from onnx import parser

from pipeline.engines.layers.graph import KEPT_FP32
from pipeline.graph.gemms import add_missing_biases, find_gemm_groups
from pipeline.graph.half import cast_to_half
from pipeline.graph.rms_norms import find_rms_norms

NORM = """
    square{0} = Pow({1}, two)
    mean{0} = ReduceMean <keepdims = 1> (square{0}, axes)
    total{0} = Add(mean{0}, epsilon)
    root{0} = Sqrt(total{0})
    inverse{0} = Reciprocal(root{0})
    normed{0} = Mul({1}, inverse{0})
    scaled{0} = Mul(gamma, normed{0})
"""


@pytest.fixture
def decoder() -> ir.Model:
    """A norm right behind a GEMM, softmax, a GEMM, the last norm, and a sum over tokens."""
    rng = np.random.default_rng(0)
    model = parser.parse_model(f"""
        <ir_version: 10, opset_import: ["" : 20]>
        decoder (float[b, s, 8] x) => (float[b, 8] y) <
            float two = {{2}}, float epsilon = {{0.000001}}, int64[1] axes = {{-1}},
            int64[1] tokens = {{1}}
        > {{
            linear = MatMul(x, w0)
            {NORM.format(0, "linear")}
            shares = Softmax <axis = -1> (scaled0)
            mixed = MatMul(shares, w1)
            {NORM.format(1, "mixed")}
            y = ReduceSum <keepdims = 0> (scaled1, tokens)
        }}
    """)
    for name, shape in (("w0", (8, 8)), ("w1", (8, 8)), ("gamma", (8,))):
        array = rng.standard_normal(shape).astype(np.float32)
        model.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    for node in model.graph.node:
        node.name = f"node_{node.output[0]}"
    return ir.from_proto(onnx.shape_inference.infer_shapes(model))


def kept(model: ir.Model) -> set[str]:
    return {node.name or "" for node in model.graph if KEPT_FP32 in node.metadata_props}


def reads_fp32(model: ir.Model, name: str) -> bool:
    node = next(node for node in model.graph if node.name == f"node_{name}")
    return node.inputs[0] is not None and node.inputs[0].dtype is ir.DataType.FLOAT


def test_gemms_in_front_of_a_norm_in_open_code_are_cast(decoder: ir.Model) -> None:
    """The last Softmax does not end the encoder: a norm comes behind it."""
    assert len(find_rms_norms(decoder.graph)) == 2
    cast_to_half(decoder)
    assert kept(decoder) == set()
    for name in ("linear", "mixed"):
        assert not reads_fp32(decoder, name)


@pytest.mark.parametrize("last", ["Identity", "Relu"], ids=["no norm", "one that is not known"])
def test_the_last_layer_of_an_encoder_without_a_known_last_norm_is_cast(last: str) -> None:
    """MobileBERT has no norm, DeBERTa another's form: only what pools and projects is fp32."""
    model = ir.from_proto(
        onnx.shape_inference.infer_shapes(
            parser.parse_model(f"""
                <ir_version: 10, opset_import: ["" : 20]>
                encoder (float[b, s, 8] x, float[8, 8] w) => (float[b, 8] y)
                <int64[1] tokens = {{1}}> {{
                    shares = Softmax <axis = -1> (x)
                    mixed = MatMul(shares, x)
                    dense = MatMul(mixed, w)
                    added = Add(dense, x)
                    normed = {last}(added)
                    pooled = ReduceSum <keepdims = 0> (normed, tokens)
                    y = MatMul(pooled, w)
                }}""")
        )
    )
    for node in model.graph:
        node.name = f"node_{node.outputs[0].name}"
    cast_to_half(model)
    assert kept(model) == {"node_y"}
    halves = {name for name in ("mixed", "dense", "added", "normed") if not reads_fp32(model, name)}
    assert halves == {"mixed", "dense"}
    assert reads_fp32(model, "pooled")


@pytest.mark.parametrize("biased", [False, True])
def test_norms_in_open_code_compute_in_fp32(
    decoder: ir.Model, biased: bool, tmp_path: Path
) -> None:
    """Behind a bias that was added too: what it gives shares its type with the GEMM's output."""
    ir.save(decoder, tmp_path / "fp32.onnx")
    if biased:
        add_missing_biases(decoder.graph, find_gemm_groups(decoder.graph))
    cast_to_half(decoder)
    for step in ("square", "mean", "total", "root", "inverse", "normed"):
        assert all(reads_fp32(decoder, f"{step}{norm}") for norm in (0, 1)), step
    ir.save(decoder, tmp_path / "fp16.onnx")
    x = np.random.default_rng(1).standard_normal((2, 5, 8)).astype(np.float32)
    expected, observed = (
        onnxruntime.InferenceSession(tmp_path / name).run(None, {"x": x})[0]
        for name in ("fp32.onnx", "fp16.onnx")
    )
    np.testing.assert_allclose(observed, expected, atol=0.02)
