"""Copies of channels for E4M3: which, and that two round better than one and compute the same."""

from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from onnx.reference import ReferenceEvaluator
from simulated import statistics_of

from pipeline.graph.gemms import find_gemm_groups
from pipeline.quant.calibrate.grid import E4M3
from pipeline.quant.calibrate.scales import fake_quantize, weight_scales
from pipeline.quant.condition.pairs import choose_pairs, pair_factors, pair_shares
from pipeline.quant.condition.splitting import find_expansion, split
from pipeline.quant.round.rounding import round_gptq
from pipeline.vectors import FloatArray, IntArray

BLOCK = """<ir_version: 8, opset_import: ["" : 20]>
graph (float[b,s,4] x) => (float[b,s,4] out)
{ g = MatMul(x, w1) u = Add(g, b1) c = Gelu(u) o = MatMul(c, w2) r = MatMul(c, w3) out = Add(o, r) }
"""
SHAPES = {"w1": (4, 6), "b1": (6,), "w2": (6, 4), "w3": (6, 4)}


def feed_forward() -> ir.Model:
    """Return a block of random weights whose second GEMM is two GEMMs."""
    random = np.random.default_rng(1)
    proto = onnx.parser.parse_model(BLOCK)
    for name, shape in SHAPES.items():
        array = random.normal(size=shape).astype(np.float32)
        proto.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    return ir.from_proto(onnx.shape_inference.infer_shapes(proto))


def run(model: ir.Model) -> FloatArray:
    x = np.random.default_rng(0).normal(size=(2, 3, 4)).astype(np.float32)
    evaluator: Any = ReferenceEvaluator(ir.to_proto(model))
    result: FloatArray = evaluator.run(["out"], {"x": x})[0]
    return result


def test_pairs_are_of_the_channels_with_most_error() -> None:
    errors = np.random.default_rng(0).permutation(1000).astype(np.float32)
    for share, added in ((0.0, 0), (0.01, 0), (0.1, 96), (0.5, 512), (9.0, 1000)):
        copies = choose_pairs(errors, share)
        assert copies.max() <= 2
        assert sorted(errors[copies == 2]) == list(range(1000 - added, 1000))


def test_pairs_leave_the_function_as_it_was() -> None:
    model = feed_forward()
    expected = run(model)
    groups = find_gemm_groups(model.graph)
    group, copies = groups[-1], np.array([2, 1, 1, 2, 1, 1])
    expansion = find_expansion(group, {gemm.output: gemm for g in groups for gemm in g.gemms})
    assert expansion is not None
    before = group.gemms[1].weight
    order = split(model.graph, group, expansion, copies, pair_shares(copies))
    assert order.tolist() == [0, 0, 1, 2, 3, 3, 4, 5]
    thirds = before[[3, 3]] * np.array([[2], [1]]) / 3
    np.testing.assert_allclose(group.gemms[1].weight[4:6], thirds, rtol=1e-6)
    np.testing.assert_allclose(run(model), expected, atol=1e-5)


def test_a_pair_leaves_five_ninths_of_an_activations_error_and_a_ninth_of_a_weights() -> None:
    random = np.random.default_rng(0)
    tokens = random.normal(size=(4000, 64)).astype(np.float32)
    weight = random.normal(size=(64, 32)).astype(np.float32)

    def errors(copies: IntArray) -> tuple[float, float]:
        """Return the variance at the output that rounding weights and activations brings."""
        order, factors = np.repeat(np.arange(64), copies), pair_factors(copies)
        seen = statistics_of(tokens[:, order] / factors)
        wide = weight[order] * (pair_shares(copies) * factors)[:, None]
        scales = weight_scales(wide, E4M3)
        assert seen.covariance is not None
        codes = round_gptq(wide, scales, seen.covariance, noise=0.001, grid=E4M3)
        lost = seen.sample @ (codes.astype(np.float32) * scales) - tokens @ weight
        rounded = fake_quantize(seen.sample, np.float32(2**-6), E4M3) - seen.sample
        return float(lost.var()), float((rounded @ wide).var())

    alone, pairs = errors(np.full(64, 1)), errors(np.full(64, 2))
    assert pairs[0] < 0.15 * alone[0]
    assert 0.5 * alone[1] < pairs[1] < 0.6 * alone[1]
