"""Splitting: which channels, where it is possible, and that it leaves the function as it was."""

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir as ir
import pytest
import torch
from architectures import ARCHITECTURES, COMMON, make_tokenizer, save_encoder
from small_graphs import parse, run

from pipeline.config import NumericType, PrecisionConfig
from pipeline.contracts import OnnxModel, SourceModel
from pipeline.engines.onnxruntime import OnnxRuntimeEncoder
from pipeline.graph.files import load_graph, save_graph
from pipeline.graph.gemms import Gemm, GemmGroup, add_missing_biases, find_gemm_groups
from pipeline.quant.condition.splitting import (
    activation_errors,
    choose_copies,
    find_expansion,
    split,
    stagger,
)
from pipeline.stages.quantize import quantize
from pipeline.text.datasets import Dataset
from pipeline.text.tokens import TokenBatch, Tokenizer
from pipeline.vectors import row_cosines

INNER = "g = MatMul(x, w1) u = Add(g, b1)"
OUTER = "o = MatMul(c, w2) out = Add(o, b2)"
POSSIBLE = {
    "GELU": f"{INNER} c = Gelu(u) {OUTER}",
    "GELU in parts": f"""{INNER} d = Div(u, half) e = Erf(d) p = Add(e, one) m = Mul(u, p)
    c = Mul(half, m) {OUTER}""",
    "SiLU": f"{INNER} s = Sigmoid(u) c = Mul(u, s) {OUTER}",
    "nothing between": f"{INNER} c = Identity(u) {OUTER}",
    "no biases": "u = MatMul(x, w1) c = Relu(u) out = MatMul(c, w2)",
    "two readers": f"""{INNER} c = Gelu(u) o = MatMul(c, w2) r = MatMul(c, w3)
    out = Add(o, r)""",
}
IMPOSSIBLE = {
    "hidden read elsewhere": f"{INNER} c = Gelu(u) {OUTER.replace('out', 'p')} "
    "m = ReduceMean(u, last) out = Add(p, m)",
    "product read elsewhere": "u = MatMul(x, w1) c = Relu(u) o = MatMul(c, w2) "
    "m = ReduceMean(u, last) out = Add(o, m)",
    "activation read elsewhere": f"{INNER} c = Gelu(u) {OUTER.replace('out', 'p')} "
    "m = ReduceMean(c, last) out = Add(p, m)",
    "a constant for each channel": f"{INNER} v = Mul(u, each) c = Gelu(v) {OUTER}",
    "an operator along the channels": f"{INNER} c = Softmax(u) {OUTER}",
    "two sources": f"{INNER} v = MatMul(x, wx) a = Gelu(u) c = Mul(a, v) {OUTER}",
    "an input of the graph": f"c = Mul(wide, wide) {OUTER}",
}

FloatArray = npt.NDArray[np.float32]
IntArray = npt.NDArray[np.int64]


def by_output(groups: Sequence[GemmGroup]) -> Mapping[ir.Value, Gemm]:
    return {gemm.output: gemm for group in groups for gemm in group.gemms}


# Which channels


def test_a_channel_costs_its_squared_range_times_the_squares_of_the_weights_that_read_it() -> None:
    weights = [np.array([[1, -3], [2, 0]], np.float32), np.array([[0], [-4]], np.float32)]
    assert activation_errors(np.array([5, 7], np.float32), weights).tolist() == [250, 980]


def test_a_multiple_of_32_channels_is_added() -> None:
    errors = np.ones(1536, np.float32)
    errors[7] = 1e9
    for share, added in ((0.0, 0), (0.005, 0), (0.02, 32), (0.04, 64), (0.1, 160)):
        copies = choose_copies(errors, share)
        assert copies.sum() - 1536 == added
        assert copies[7] == 1 + added


def test_the_next_copy_goes_where_it_takes_most() -> None:
    errors = np.ones(1000, np.float32)
    errors[3], errors[500] = 80_000, 10_000
    copies = choose_copies(errors, 0.032)
    assert (copies[3], copies[500]) == (23, 11)  # the cube root of 8 between them, about
    assert np.delete(copies, [3, 500]).max() == 1


def test_no_other_choice_of_as_many_copies_leaves_less() -> None:
    errors = np.array([9, 5, 1], np.float32)
    copies = np.ones(3, np.int64)
    every = [np.array(c) for c in itertools.product(range(1, 34), repeat=3) if sum(c) == 35]
    least = min((errors / np.square(c)).sum() for c in every)
    copies = choose_copies(errors, 10.7)
    assert copies.sum() == 35
    assert (errors / np.square(copies)).sum() == pytest.approx(least)


# Where it is possible


@pytest.mark.parametrize("text", POSSIBLE.values(), ids=POSSIBLE.keys())
def test_split_channels_leave_the_function_as_it_was(text: str) -> None:
    model = parse(text)
    expected = run(model)
    groups = find_gemm_groups(model.graph)
    group, copies = groups[-1], np.array([1, 3, 1, 1, 2, 1])
    expansion = find_expansion(group, by_output(groups))
    assert expansion is not None
    assert expansion.source is groups[0].gemms[0]
    order = split(model.graph, group, expansion, copies)
    assert order.tolist() == [0, 1, 1, 1, 2, 3, 4, 4, 5]
    np.testing.assert_allclose(run(model), expected, atol=1e-5)
    assert expansion.source.weight.shape == (4, 9)
    assert {gemm.weight.shape for gemm in group.gemms} == {(9, 4)}


@pytest.mark.parametrize("text", IMPOSSIBLE.values(), ids=IMPOSSIBLE.keys())
def test_channels_that_cannot_be_copied_are_left_alone(text: str) -> None:
    groups = find_gemm_groups(parse(text).graph)
    group = next(group for group in groups if group.name == "c")
    assert find_expansion(group, by_output(groups)) is None


@pytest.mark.parametrize("leaves", ["u", "c"])
def test_a_tensor_that_leaves_the_graph_keeps_its_channels(leaves: str) -> None:
    groups = find_gemm_groups(parse(POSSIBLE["GELU"], f", float[b,s,6] {leaves}").graph)
    assert find_expansion(groups[-1], by_output(groups)) is None


@pytest.mark.parametrize("exporter", ["tiny_fp32", "tiny_optimum_fp32"])
def test_both_exporters_feed_forward_blocks_can_be_split(
    exporter: str,
    request: pytest.FixtureRequest,
    evaluation_batch: TokenBatch,
    tmp_path: Path,
) -> None:
    """A Gelu node in one, Erf and what is around it in the other."""
    exported: OnnxModel = request.getfixturevalue(exporter)
    graph, random = load_graph(exported), np.random.default_rng(0)
    groups = add_missing_biases(graph.graph, find_gemm_groups(graph.graph))
    found = [(group, find_expansion(group, by_output(groups))) for group in groups]
    possible = [(group, expansion) for group, expansion in found if expansion is not None]
    assert [expansion.source.weight.shape for _, expansion in possible] == [(32, 64)] * 2
    for group, expansion in possible:
        split(graph.graph, group, expansion, random.integers(1, 4, 64))
    path = tmp_path / "split.onnx"
    save_graph(graph, path, precision=NumericType.fp32, source_sha256="")
    onnx.checker.check_model(str(path), full_check=True)
    expected, observed = (
        OnnxRuntimeEncoder(p).encode(evaluation_batch) for p in (exported.path, path)
    )
    assert row_cosines(expected, observed).min() >= 0.999999
    np.testing.assert_allclose(observed, expected, atol=1e-5)


# What it is good for


@pytest.mark.parametrize("count", [1, 2, 3, 8, 20])
def test_k_staggered_copies_round_k_times_as_finely(count: int) -> None:
    values = np.random.default_rng(0).uniform(-100, 100, 5000)
    offsets = stagger(np.array([count])).astype(np.float64)
    rounded = np.rint(values[:, None] - offsets) + offsets
    errors = np.abs(rounded.mean(axis=1) - values)
    assert 0.48 / count < errors.max() <= 0.501 / count


def test_every_channel_is_staggered_by_its_own_copies() -> None:
    np.testing.assert_allclose(stagger(np.array([1, 2, 1])), [0, -0.25, 0.25, 0])


@pytest.fixture(scope="module")
def rare(
    sample: Dataset,
    resolve_dir: Callable[[Path], SourceModel],
    tmp_path_factory: pytest.TempPathFactory,
) -> SourceModel:
    """A BERT of wide feed-forward blocks with one channel that fires on ``<s>`` alone, but hard."""

    def plant(model: Any) -> None:
        model.eval()
        model.embeddings.word_embeddings.weight[0] *= 10
        ids = torch.randint(4, model.config.vocab_size, (32, 12))
        ids[:, 0] = 0
        for layer in model.encoder.layer:
            inner, seen = layer.intermediate.dense, list[torch.Tensor]()
            hook = inner.register_forward_pre_hook(lambda _, args, seen=seen: seen.append(args[0]))
            model(input_ids=ids)
            hook.remove()
            special, others = seen[0][:, 0], seen[0][:, 1:]
            direction = special.mean(dim=0) - others.mean(dim=(0, 1))
            direction *= 100 / (special @ direction - (others @ direction).max()).mean()
            inner.weight[5] = direction
            inner.bias[5] = -(others @ direction).max()
            layer.output.dense.weight[:, 5] *= 10

    architecture = replace(
        ARCHITECTURES["bert"], plant=plant, settings=COMMON | {"intermediate_size": 256}
    )
    root = tmp_path_factory.mktemp("rare")
    return resolve_dir(save_encoder(architecture, make_tokenizer(sample.calibration), root))


@pytest.mark.slow
def test_int8_recovers_what_one_channel_wrecks(
    rare: SourceModel,
    export_torch: Callable[[SourceModel], OnnxModel],
    calibration_texts: Sequence[str],
    evaluation_texts: Sequence[str],
    tmp_path: Path,
) -> None:
    fp32 = export_torch(rare)
    tokenizer = Tokenizer(rare.assets, max_length=rare.max_length)
    batch = tokenizer.pad(tokenizer.rows(evaluation_texts))
    expected = OnnxRuntimeEncoder(fp32.path).encode(batch)
    lost: dict[float, float] = {}
    for share in (0.0, 0.125):
        config = PrecisionConfig(name="int8", type=NumericType.int8, split_share=share)
        graphs = quantize(fp32, rare, config, calibration_texts, tmp_path / str(share))
        observed = OnnxRuntimeEncoder(graphs.portable.path).encode(batch)
        lost[share] = 1 - row_cosines(expected, observed).mean()
        said = graphs.quantization or {}
        assert said["split_channels_added"] == 2 * 256 * share
        added = [row["channels_added"] for row in said["gemm_list"]]
        assert sorted(added)[-2:] == [256 * share] * 2
        assert not any(sorted(added)[:-2])
    assert lost[0.125] < lost[0.0] / 20
