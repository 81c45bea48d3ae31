"""Widening: which channels are read again, that the function stays, and that rounding is finer."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from small_graphs import parse, run

from pipeline.config import NumericType, PrecisionConfig
from pipeline.contracts import OnnxModel, SourceModel
from pipeline.engines.onnxruntime import OnnxRuntimeEncoder
from pipeline.graph.gemms import find_gemm_groups
from pipeline.quant.calibrate.grid import E4M3, INT8, Grid
from pipeline.quant.calibrate.scales import fake_quantize
from pipeline.quant.calibrate.statistics import Activation, Sum
from pipeline.quant.condition.widening import widen
from pipeline.stages.quantize import quantize
from pipeline.text.tokens import TokenBatch
from pipeline.vectors import FloatArray, row_cosines

ONE_READER = "o = MatMul(wide, w2) out = Add(o, b2)"
TWO_READERS = """o = MatMul(wide, w2) p = Add(o, b2) q = MatMul(wide, w3) r = Add(q, b2)
m = ReduceMean(wide, last) s = Add(p, r) out = Add(s, m)"""
STEP = np.float32(0.25)
VALUE = np.random.default_rng(0).uniform(-3, 3, (4, 50, 6)).astype(np.float32)


def observe(value: FloatArray) -> Activation:
    total = Sum("wide", value.shape[-1], covariance=True)
    total.add(value)
    return total.result()


SEEN = observe(VALUE)


@pytest.mark.parametrize(("grid", "added"), [(INT8, 32), (E4M3, 6)], ids=["int8", "fp8"])
@pytest.mark.parametrize("text", [ONE_READER, TWO_READERS], ids=["one", "two and another operator"])
def test_the_function_stays_as_it_was(text: str, grid: Grid, added: int) -> None:
    model = parse(text)
    expected = run(model)
    (group,) = find_gemm_groups(model.graph)
    widened = widen(model.graph, group, SEEN, STEP, 6, grid)
    assert widened is not None
    assert widened.added == added
    assert {gemm.weight.shape for gemm in widened.group.gemms} == {(6 + added, 4)}
    np.testing.assert_allclose(run(model), expected, atol=1e-5)


def test_copies_go_to_the_channels_with_the_largest_weights() -> None:
    model = parse(ONE_READER)
    (group,) = find_gemm_groups(model.graph)
    energy = np.square(group.gemms[0].weight).sum(axis=1)
    widened = widen(model.graph, group, SEEN, STEP, 6)
    assert widened is not None
    copies = np.bincount(widened.channels)
    assert (np.diff(copies[np.argsort(energy)]) >= 0).all()
    assert copies.max() > copies.min()


def test_nothing_is_widened_for_less_than_a_tile_or_without_a_bias() -> None:
    for text, share in ((ONE_READER, 2.0), ("out = MatMul(wide, w2)", 6.0)):
        model = parse(text)
        before = [node.op_type for node in model.graph]
        (group,) = find_gemm_groups(model.graph)
        assert widen(model.graph, group, SEEN, STEP, share) is None
        assert [node.op_type for node in model.graph] == before


@pytest.mark.parametrize(("grid", "times"), [(INT8, 20), (E4M3, 1.6)], ids=["int8", "fp8"])
def test_copies_are_rounded_between_the_steps_and_the_output_is_nearer(
    grid: Grid, times: float
) -> None:
    """Statistics follow what the GEMM reads, and its rounded input gives a finer product."""
    errors = {}
    for share in (0.0, 6.0):
        model = parse(ONE_READER)
        (group,) = find_gemm_groups(model.graph)
        gemm = group.gemms[0]
        exact = VALUE @ gemm.weight + gemm.bias_array
        read = VALUE
        widened = widen(model.graph, group, SEEN, STEP, share, grid)
        if widened is not None:
            read = (VALUE[..., widened.channels] - widened.offsets) / widened.factors
            got, expected = widened.read(SEEN), observe(read)
            for name in ("low", "high", "mean", "covariance", "sample"):
                np.testing.assert_allclose(
                    getattr(got, name), getattr(expected, name), atol=1e-4, err_msg=name
                )
        rounded = fake_quantize(read, STEP, grid) @ gemm.weight + gemm.bias_array
        errors[share] = float(np.square(rounded - exact).mean())
    assert errors[6.0] < errors[0.0] / times  # 6.3 readings: 1/40; two: 5/9


@pytest.mark.slow
def test_int8_is_nearer_with_wider_gemms(
    tiny_source: SourceModel,
    tiny_fp32: OnnxModel,
    calibration_texts: Sequence[str],
    evaluation_batch: TokenBatch,
    tmp_path: Path,
) -> None:
    expected = OnnxRuntimeEncoder(tiny_fp32.path).encode(evaluation_batch)
    lost: dict[float, float] = {}
    for share in (0.0, 1.0):
        config = PrecisionConfig(name="int8", type=NumericType.int8, widen_share=share)
        graphs = quantize(tiny_fp32, tiny_source, config, calibration_texts, tmp_path / str(share))
        observed = OnnxRuntimeEncoder(graphs.portable.path).encode(evaluation_batch)
        lost[share] = float(1 - row_cosines(expected, observed).mean())
        said = graphs.quantization or {}
        shapes = {tuple(row["shape"]): row["channels_added"] for row in said["gemm_list"]}
        wider = int(32 * share)
        assert shapes == {
            (32 + wider, 32): wider,
            (32 + wider, 64): wider,
            (64 + 2 * wider, 32): 2 * wider,
        }
    assert lost[1.0] < 0.75 * lost[0.0]
