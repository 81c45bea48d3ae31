"""A group in int8, against the same computed directly."""

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
import pytest
from simulated import statistics_of as seen

from pipeline.config import Rounding
from pipeline.graph.files import add_initializer
from pipeline.graph.gemms import GemmGroup, find_gemm_groups
from pipeline.quant.calibrate.scales import weight_scales
from pipeline.quant.round.quantized import output_errors, quantize_group
from pipeline.quant.round.rounding import round_gptq

STEP = np.float32(0.125)

FloatArray = npt.NDArray[np.float32]


def draw(seed: int, *shape: int) -> FloatArray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


WEIGHTS = [draw(1, 8, 5), draw(2, 8, 3) * 10]
TOKENS = (draw(3, 300, 8) @ draw(4, 8, 8) + 2).astype(np.float32)


@pytest.fixture
def group() -> GemmGroup:
    """Two GEMMs that read ``x``, the second one without a bias."""
    model = ir.from_onnx_text(
        """<ir_version: 8, opset_import: ["" : 20]>
        graph (float[b,s,8] x) => (float[b,s,5] first, float[b,s,3] second)
        <float[5] bias = {1, 2, 3, 4, 5}, float w1, float w2>
        { product = MatMul(x, w1) first = Add(product, bias) second = MatMul(x, w2) }"""
    )
    graph = model.graph
    for index, node in enumerate(n for n in graph if n.op_type == "MatMul"):
        node.replace_input_with(1, add_initializer(graph, f"weight{index}", WEIGHTS[index]))
    (found,) = find_gemm_groups(graph)
    return found


@pytest.mark.parametrize("correct_bias", [False, True])
def test_each_gemm_is_rounded_to_its_own_steps(group: GemmGroup, correct_bias: bool) -> None:
    made = quantize_group(
        group, seen(TOKENS), STEP, rounding=Rounding.nearest, correct_bias=correct_bias
    )
    assert (made.group, made.step) == (group, STEP)
    for part, gemm, weight in zip(made.gemms, group.gemms, WEIGHTS, strict=True):
        scales = np.abs(weight).max(axis=0) / 127
        assert part.gemm is gemm
        np.testing.assert_allclose(part.scales, scales, rtol=1e-3)
        np.testing.assert_array_equal(part.integers, np.rint(weight / part.scales))
        assert part.integers.dtype == np.int8


def test_gptq_uses_how_the_channels_go_together(group: GemmGroup) -> None:
    made = quantize_group(group, seen(TOKENS), STEP, rounding=Rounding.gptq, correct_bias=False)
    covariance = np.cov(TOKENS.T.astype(np.float64), bias=True)
    for part, weight in zip(made.gemms, WEIGHTS, strict=True):
        expected = round_gptq(weight, weight_scales(weight), covariance, noise=float(STEP**2 / 12))
        np.testing.assert_array_equal(part.integers, expected)
        assert (part.integers != np.rint(weight / part.scales)).any()


def test_the_bias_takes_up_the_mean_error_where_there_is_one(group: GemmGroup) -> None:
    first, second = quantize_group(
        group, seen(TOKENS), STEP, rounding=Rounding.nearest, correct_bias=True
    ).gemms
    rounded = np.clip(np.rint(TOKENS / STEP), -128, 127) * STEP
    lost = TOKENS @ WEIGHTS[0] - rounded @ (first.integers * first.scales)
    np.testing.assert_allclose(first.bias_delta, lost.mean(axis=0), rtol=1e-3, atol=1e-6)
    assert np.abs(first.bias_delta).min() > 0
    assert second.bias_delta.tolist() == [0, 0, 0]


def test_without_bias_correction_no_bias_changes(group: GemmGroup) -> None:
    made = quantize_group(group, seen(TOKENS), STEP, rounding=Rounding.gptq, correct_bias=False)
    assert [part.bias_delta.tolist() for part in made.gemms] == [[0] * 5, [0] * 3]


def test_output_errors_are_those_of_the_quantized_product(group: GemmGroup) -> None:
    held = (draw(5, 200, 8) * 4).astype(np.float32)
    made = quantize_group(group, seen(TOKENS), STEP, rounding=Rounding.nearest, correct_bias=True)
    rounded = np.clip(np.rint(held / STEP), -128, 127) * STEP
    errors = output_errors(made, seen(held))
    assert len(errors) == 2
    for error, part, weight in zip(errors, made.gemms, WEIGHTS, strict=True):
        exact = held @ weight
        got = rounded @ (part.integers * part.scales) + part.bias_delta
        expected = np.square(got - exact).sum() / np.square(exact - exact.mean(axis=0)).sum()
        assert error == pytest.approx(expected, rel=1e-3)


def test_gemms_that_lose_everything_have_an_error_of_one(group: GemmGroup) -> None:
    made = quantize_group(group, seen(TOKENS), STEP, rounding=Rounding.nearest, correct_bias=False)
    made.step = np.float32(1e6)
    centred = TOKENS - TOKENS.mean(axis=0)
    assert output_errors(made, seen(centred)) == pytest.approx([1, 1], rel=1e-3)
