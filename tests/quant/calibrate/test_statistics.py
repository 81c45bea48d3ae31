from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
import pytest
import torch

from pipeline.contracts import OnnxModel, SourceModel
from pipeline.engines.torch import load_sentence_transformer
from pipeline.errors import QuantizeError
from pipeline.graph.files import load_graph
from pipeline.graph.gemms import find_gemm_groups
from pipeline.graph.observe import MAX_TOKENS, unpadded_batches
from pipeline.quant.calibrate.statistics import observe
from pipeline.text.tokens import TokenBatch, Tokenizer, TokenRow

EMBEDDING = """<ir_version: 8, opset_import: ["" : 20]>
graph (int64[b,s] input_ids) => (float[b,s,2] out)
<float[4,2] table = {1, -1, 2, -5, 30, 0, -7, 4}>
{ seen = Gather(table, input_ids) out = Log(seen) }"""


def f32(values: npt.ArrayLike) -> npt.NDArray[np.float32]:
    return np.array(values, dtype=np.float32)


def ids(rows: list[list[int]]) -> TokenBatch:
    array = np.array(rows, dtype=np.int64)
    return TokenBatch(input_ids=array, attention_mask=array, token_type_ids=array)


def tensor(model: ir.Model, name: str) -> ir.Value:
    return next(v for node in model.graph for v in node.outputs if v.name == name)


def test_ranges_are_those_of_the_rows_seen_in_any_batch() -> None:
    model = ir.from_onnx_text(EMBEDDING)
    batches = [ids([[0, 1], [1, 0]]), ids([[3]])]
    seen = observe(model, [tensor(model, "seen")], batches)["seen"]
    assert seen.low.tolist() == [-7, -5]
    assert seen.high.tolist() == [2, 4]
    assert seen.magnitude().tolist() == [7, 5]
    assert seen.magnitude(f32([-2.5, -0.5])).tolist() == [4.5, 4.5]
    assert seen.tokens == 5


def test_a_tensor_that_is_not_finite_is_named() -> None:
    model = ir.from_onnx_text(EMBEDDING)
    with pytest.raises(QuantizeError, match="tensor out holds NaN"):
        observe(model, [tensor(model, "out")], [ids([[0]])])


def test_the_graph_keeps_its_own_outputs() -> None:
    model = ir.from_onnx_text(EMBEDDING)
    seen = tensor(model, "seen")
    observe(model, [seen], [ids([[2]])])
    assert [value.name for value in model.graph.outputs] == ["out"]
    assert not seen.is_graph_output()


def test_covariances_are_those_of_all_rows_together() -> None:
    model = ir.from_onnx_text(EMBEDDING)
    batches = [ids([[0, 1], [1, 0]]), ids([[3]])]
    rows = np.array([[1, -1], [2, -5], [2, -5], [1, -1], [-7, 4]])
    seen = observe(model, [tensor(model, "seen")], batches)["seen"]
    np.testing.assert_allclose(seen.mean, rows.mean(axis=0))
    assert seen.covariance is not None
    np.testing.assert_allclose(seen.covariance, np.cov(rows.T, bias=True))


def test_transformed_statistics_are_those_of_the_transformed_rows() -> None:
    model = ir.from_onnx_text(EMBEDDING)
    shift, factors = f32([-2.5, 0.5]), f32([2, 0.25])
    rows = (np.array([[1, -1], [2, -5], [-7, 4]]) - shift) / factors
    seen = observe(model, [tensor(model, "seen")], [ids([[0, 1, 3]])])["seen"]
    moved = seen.transformed(shift, factors)
    np.testing.assert_allclose(moved.low, rows.min(axis=0))
    np.testing.assert_allclose(moved.high, rows.max(axis=0))
    np.testing.assert_allclose(moved.mean, rows.mean(axis=0))
    assert moved.covariance is not None
    np.testing.assert_allclose(moved.covariance, np.cov(rows.T, bias=True), rtol=1e-5)


def test_the_sample_is_transformed_with_them() -> None:
    model = ir.from_onnx_text(EMBEDDING)
    seen = observe(model, [tensor(model, "seen")], [ids([[0, 1, 3]])])["seen"]
    moved = seen.transformed(f32([-2.5, 0.5]), f32([2, 0.25]))
    expected = (np.array([[1, -1], [2, -5], [-7, 4]]) - [-2.5, 0.5]) / [2, 0.25]
    assert sorted(moved.sample.tolist()) == sorted(expected.tolist())
    assert moved.tokens == 3


def test_taken_statistics_are_those_of_the_channels_taken() -> None:
    model = ir.from_onnx_text(EMBEDDING)
    order = np.array([1, 0, 1])
    rows = np.array([[1, -1], [2, -5], [-7, 4]])[:, order]
    seen = observe(model, [tensor(model, "seen")], [ids([[0, 1, 3]])])["seen"].taken(order)
    np.testing.assert_allclose(seen.low, rows.min(axis=0))
    np.testing.assert_allclose(seen.high, rows.max(axis=0))
    np.testing.assert_allclose(seen.mean, rows.mean(axis=0))
    assert seen.covariance is not None
    np.testing.assert_allclose(seen.covariance, np.cov(rows.T, bias=True))
    assert sorted(seen.sample.tolist()) == sorted(rows.tolist())
    assert seen.tokens == 3


COUNTING = """<ir_version: 8, opset_import: ["" : 20]>
graph (int64[b,s] input_ids) => (float[b,s,2] out)
<int64[1] last = {2}, float[2] both = {1, -1}>
{ number = Cast <to = 1> (input_ids) column = Unsqueeze(number, last)
  seen = Mul(column, both) out = Neg(seen) }"""


def count_up(sizes: Sequence[int]) -> dict[str, npt.NDArray[np.int64]]:
    """Return the samples of two tensors that say which token they were, the first one 0."""
    model, starts = ir.from_onnx_text(COUNTING), np.cumsum([0, *sizes])
    batches = [
        ids([list(range(start, start + size))]) for start, size in zip(starts, sizes, strict=False)
    ]
    seen = observe(model, [tensor(model, "seen"), tensor(model, "out")], batches)
    assert {name: entry.tokens for name, entry in seen.items()} == dict.fromkeys(seen, sum(sizes))
    return {name: entry.sample.astype(np.int64) for name, entry in seen.items()}


def test_a_small_set_is_sampled_whole() -> None:
    samples = count_up([300, 1, 700])
    assert sorted(samples["seen"][:, 0].tolist()) == list(range(1001))


def test_every_tensor_keeps_the_same_1024_tokens() -> None:
    samples = count_up([500] * 30)
    assert samples["seen"].shape == samples["out"].shape == (1024, 2)
    np.testing.assert_array_equal(samples["seen"], -samples["out"])
    assert len(set(samples["seen"][:, 0].tolist())) == 1024


def test_tokens_of_all_batches_are_equally_likely_to_be_kept() -> None:
    picked = count_up([100, 1900, 2500, 500, 3000, 2000])["seen"][:, 0]
    shares = np.histogram(picked, bins=10, range=(0, 10_000))[0] / 1024
    assert shares.min() > 0.07
    assert shares.max() < 0.13


def test_the_sample_is_the_same_every_time() -> None:
    np.testing.assert_array_equal(count_up([900] * 4)["seen"], count_up([900] * 4)["seen"])


def test_ranges_equal_what_pytorch_feeds_its_linear_layers(
    tiny_fp32: OnnxModel,
    tiny_source: SourceModel,
    tiny_tokenizer: Tokenizer,
    calibration_texts: Sequence[str],
) -> None:
    """Each text for itself, so that PyTorch sees no padding either."""
    texts = calibration_texts[::4]
    reference = load_sentence_transformer(
        tiny_source.path, device="cpu", trust_remote_code=False, attention="eager"
    )
    inputs: dict[str, list[npt.NDArray[np.float32]]] = {}
    for name, module in reference.named_modules():
        if isinstance(module, torch.nn.Linear):
            module.register_forward_pre_hook(
                lambda _, args, name=name: inputs.setdefault(name, []).append(args[0][0].numpy())
            )
    with torch.inference_mode():
        for text in texts:
            reference(reference.preprocess([text]))
    graph = load_graph(tiny_fp32)
    groups = find_gemm_groups(graph.graph)
    batches = unpadded_batches(tiny_tokenizer, tiny_tokenizer.rows(texts))
    ranges = observe(graph, [group.activation for group in groups], batches)
    for group in groups:
        seen = ranges[group.name]
        for gemm in group.gemms:
            key = next(key for key in inputs if key.endswith(gemm.name.split(".encoder.")[1]))
            values = np.concatenate(inputs[key])
            np.testing.assert_allclose(seen.low, values.min(axis=0), atol=1e-4)
            np.testing.assert_allclose(seen.high, values.max(axis=0), atol=1e-4)


def test_batches_hold_each_row_once_and_no_padding(tiny_tokenizer: Tokenizer) -> None:
    random = np.random.default_rng(0)
    lengths = random.choice([1, 2, 3, 17, 40, 500, MAX_TOKENS + 5], size=300)
    rows = [TokenRow(ids=(i + 1,) * n, type_ids=(0,) * n) for i, n in enumerate(lengths)]
    batches = list(unpadded_batches(tiny_tokenizer, rows))
    assert all(batch.attention_mask.all() for batch in batches)
    assert sorted(int(i) - 1 for batch in batches for i in batch.input_ids[:, 0]) == list(
        range(300)
    )
    for batch in batches:
        assert batch.input_ids.size <= MAX_TOKENS or len(batch.input_ids) == 1
    assert len(batches) < 150


def test_moments_are_left_out_where_they_are_not_asked_for() -> None:
    model = ir.from_onnx_text(EMBEDDING)
    seen = observe(model, [tensor(model, "seen")], [ids([[0, 1, 3]])], covariances=False)["seen"]
    assert seen.covariance is None
    assert seen.transformed(f32([1, 1]), f32([2, 2])).covariance is None
    assert seen.taken(np.array([1, 0, 1])).covariance is None
