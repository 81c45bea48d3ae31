from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
import pytest
from simulated import insert_naive_qdq

from pipeline.config import NumericType
from pipeline.contracts import Graphs, OnnxModel, SourceModel
from pipeline.engines.onnxruntime import OnnxRuntimeEncoder
from pipeline.graph.files import load_graph, prune, save_graph
from pipeline.graph.gemms import GemmGroup, find_gemm_groups
from pipeline.graph.observe import unpadded_batches
from pipeline.quant.calibrate.statistics import Activation, observe
from pipeline.quant.condition.folds import Fold
from pipeline.quant.condition.smoothing import Smoother, midrange, smoothing_factors
from pipeline.text.tokens import TokenBatch, Tokenizer
from pipeline.vectors import row_cosines

ALPHAS = [0.0, 0.5, 0.9, 1.0]

FloatArray = npt.NDArray[np.float32]
Observe = Callable[[ir.Model, Sequence[GemmGroup]], Mapping[str, Activation]]


def f32(values: npt.ArrayLike) -> FloatArray:
    return np.array(values, dtype=np.float32)


@dataclass
class Smoothed:
    """A smoothed graph and, of each group, what it is now, its statistics and its fold."""

    graph: ir.Model
    results: list[tuple[GemmGroup, Activation, Fold]]

    @property
    def folds(self) -> Counter[Fold]:
        return Counter(fold for _, _, fold in self.results)


@pytest.fixture
def watch(tiny_tokenizer: Tokenizer, calibration_texts: Sequence[str]) -> Observe:
    """Return a function that watches the calibration texts go by."""

    def run(graph: ir.Model, groups: Sequence[GemmGroup]) -> Mapping[str, Activation]:
        batches = unpadded_batches(tiny_tokenizer, tiny_tokenizer.rows(calibration_texts))
        return observe(graph, [group.activation for group in groups], batches)

    return run


@pytest.fixture
def smoothed(outlier_fp32: OnnxModel, watch: Observe) -> Callable[..., Smoothed]:
    """Return a function that smooths the model with outlier channels."""

    def run(alpha: float, *, shift: bool = True) -> Smoothed:
        graph = load_graph(outlier_fp32)
        groups = find_gemm_groups(graph.graph)
        observed = watch(graph, groups)
        smoother = Smoother(graph.graph, groups)
        results = []
        for group in reversed(groups):
            seen, fold = observed[group.name], smoother.fold_of(group)
            by = midrange(seen) if shift else np.zeros_like(seen.low)
            weights = [gemm.weight for gemm in group.gemms]
            factors = smoothing_factors(seen.magnitude(by), weights, alpha)
            after = smoother.smooth(group, by, factors)
            results.append((after, seen.transformed(by, factors), fold))
        return Smoothed(graph, results)

    return run


@pytest.fixture
def embed(evaluation_batch: TokenBatch, tmp_path: Path) -> Callable[[ir.Model], FloatArray]:
    """Return a function that runs a graph on the evaluation texts."""

    def run(graph: ir.Model) -> FloatArray:
        path = tmp_path / "model.onnx"
        save_graph(graph, path, precision=NumericType.fp32, source_sha256="")
        return OnnxRuntimeEncoder(path).encode(evaluation_batch)

    return run


# The formula


@pytest.mark.parametrize(
    ("alpha", "expected"),
    [
        (0.0, [2, 1 / 2]),  # 1 / [1, 4], its mean 1 / 2
        (0.5, [3 / 1.5**0.5, 0.5 / 1.5**0.5]),  # [3, 1] / [1, 2], its mean sqrt(1.5)
        (1.0, [3, 1 / 3]),  # [9, 1], its mean 3
    ],
)
def test_factors_follow_equation_4_up_to_their_mean(alpha: float, expected: list[float]) -> None:
    # Channel magnitudes 9 and 1; the weights that read the channels reach 1 and 4.
    weights = [f32([[1, 0], [0, -4]]), f32([[-0.5], [2.0]])]
    factors = smoothing_factors(f32([9, 1]), weights, alpha)
    np.testing.assert_allclose(factors, expected, rtol=1e-6)
    assert factors.dtype == np.float32


@pytest.mark.parametrize("alpha", ALPHAS)
def test_factors_are_positive_and_finite_even_for_channels_of_zeros(alpha: float) -> None:
    weight = f32([[0, 0], [1, 2], [0, 0], [3, 4]])
    factors = smoothing_factors(f32([0, 0, 5, 6]), [weight], alpha)
    assert np.isfinite(factors).all()
    assert (factors > 0).all()
    assert np.log(factors.astype(np.float64)).mean() == pytest.approx(0, abs=1e-5)


def test_a_larger_channel_gets_a_larger_factor() -> None:
    factors = smoothing_factors(f32([1, 10, 100]), [np.ones((3, 2), np.float32)], 0.5)
    np.testing.assert_allclose(factors[1:] / factors[:-1], 10**0.5, rtol=1e-5)


# The folds


@pytest.mark.parametrize("shift", [False, True])
@pytest.mark.parametrize("alpha", ALPHAS)
def test_smoothing_leaves_the_fp32_function_unchanged(
    alpha: float,
    shift: bool,
    outlier_fp32: OnnxModel,
    smoothed: Callable[..., Smoothed],
    embed: Callable[[ir.Model], FloatArray],
) -> None:
    before, after = embed(load_graph(outlier_fp32)), embed(smoothed(alpha, shift=shift).graph)
    assert row_cosines(before, after).min() >= 0.99999
    np.testing.assert_allclose(after, before, atol=1e-4)


def test_every_kind_of_fold_occurs(smoothed: Callable[..., Smoothed]) -> None:
    expected = {Fold.layer_norm: 4, Fold.value_projection: 2, Fold.explicit: 2}
    assert smoothed(0.9).folds == expected


def test_the_ranges_said_are_those_of_the_smoothed_graph(
    smoothed: Callable[..., Smoothed], watch: Observe
) -> None:
    result = smoothed(0.9)
    measured = watch(result.graph, [group for group, _, _ in result.results])
    for group, said, fold in result.results:
        for end in ("low", "high"):
            np.testing.assert_allclose(
                getattr(measured[group.name], end),
                getattr(said, end),
                rtol=1e-3,
                atol=1e-4,
                err_msg=f"{fold} {group.name} {end}",
            )


def test_outlier_channels_shrink_in_every_group(
    outlier_fp32: OnnxModel, smoothed: Callable[..., Smoothed], watch: Observe
) -> None:
    def excess(seen: Activation) -> float:
        return float(seen.magnitude().max() / np.median(seen.magnitude()))

    graph = load_graph(outlier_fp32)
    groups = find_gemm_groups(graph.graph)
    before = [excess(seen) for seen in watch(graph, groups).values()]
    after = [excess(seen) for _, seen, _ in reversed(smoothed(0.9).results)]
    assert min(before) > 10
    assert max(after) < 3


@pytest.mark.parametrize(
    ("rest", "restored"), [("out = Relu(g)", 0), ("out = Add(g, n)", 1)], ids=["alone", "residual"]
)
def test_a_norm_is_restored_only_for_readers_outside_the_group(rest: str, restored: int) -> None:
    model = ir.from_onnx_text(
        f"""<ir_version: 8, opset_import: ["" : 20]>
        graph (float[b,2] x) => (float[b,2] out)
        <float[2] scale = {{1, 1}}, float[2,2] w = {{1, 2, 3, 4}}>
        {{ n = LayerNormalization(x, scale) g = MatMul(n, w) {rest} }}"""
    )
    (group,) = find_gemm_groups(model.graph)
    Smoother(model.graph, [group]).smooth(group, f32([0, 0]), f32([3, 0.5]))
    assert [node.op_type for node in model.graph].count("Mul") == restored


def test_factors_of_one_change_nothing(
    tiny_fp32: OnnxModel, embed: Callable[[ir.Model], FloatArray]
) -> None:
    """Nothing to smooth: the graph computes bit for bit the same."""
    graph = load_graph(tiny_fp32)
    before = embed(graph)
    group = find_gemm_groups(graph.graph)[0]
    one = np.ones(group.channels, np.float32)
    Smoother(graph.graph, [group]).smooth(group, 0 * one, one)
    np.testing.assert_array_equal(embed(graph), before)


# What it is for


def test_int8_agrees_better_with_smoothing_than_without(
    outlier_fp32: OnnxModel,
    outlier_source: SourceModel,
    quantize_tiny: Callable[..., Graphs],
    watch: Observe,
    embed: Callable[[ir.Model], FloatArray],
    evaluation_batch: TokenBatch,
) -> None:
    reference = embed(load_graph(outlier_fp32))
    rough = load_graph(outlier_fp32)
    groups = find_gemm_groups(rough.graph)
    observed = watch(rough, groups)
    insert_naive_qdq(rough.graph, groups, observed)
    prune(rough)
    fine = quantize_tiny(outlier_fp32, outlier_source).portable
    without = row_cosines(reference, embed(rough))
    smoothed = row_cosines(reference, OnnxRuntimeEncoder(fine.path).encode(evaluation_batch))
    assert smoothed.mean() > 0.9999 > without.mean()
    assert smoothed.min() > without.min()
