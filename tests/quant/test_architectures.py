"""Smoothing on tiny random encoders of several architectures, outlier channels planted."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
import pytest
import torch
from architectures import ARCHITECTURES, LAYERS, MAX_LENGTH, Architecture
from simulated import insert_naive_qdq

from pipeline.config import EngineConfig, Exporter, NumericType, PrecisionConfig
from pipeline.contracts import GRAPH_OUTPUT, Graphs, OnnxModel, SourceModel
from pipeline.engines.gpu import is_installed
from pipeline.engines.onnxruntime import OnnxRuntimeEncoder, open_session
from pipeline.engines.torch import load_sentence_transformer
from pipeline.graph.files import load_graph, prune, save_graph
from pipeline.graph.gemms import GemmGroup, add_missing_biases, find_gemm_groups
from pipeline.graph.observe import unpadded_batches
from pipeline.quant.calibrate.statistics import Activation, observe
from pipeline.quant.condition.folds import Fold
from pipeline.quant.condition.smoothing import Smoother, midrange, smoothing_factors
from pipeline.stages.build import build, make_profiles
from pipeline.stages.quantize import quantize
from pipeline.text.tokens import TokenBatch, Tokenizer
from pipeline.vectors import row_cosines

FloatArray = npt.NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class Encoder:
    """A tiny encoder, its fp32 graph and what the calibration text drives through it."""

    architecture: Architecture
    source: SourceModel
    fp32: OnnxModel
    texts: Sequence[str]

    @cached_property
    def tokenizer(self) -> Tokenizer:
        return Tokenizer(self.source.assets, max_length=self.source.max_length)

    def groups(self, graph: ir.Model) -> list[GemmGroup]:
        return add_missing_biases(graph.graph, find_gemm_groups(graph.graph))

    def observe(self, graph: ir.Model, groups: Sequence[GemmGroup]) -> Mapping[str, Activation]:
        batches = unpadded_batches(self.tokenizer, self.tokenizer.rows(self.texts))
        return observe(graph, [group.activation for group in groups], batches)

    @cached_property
    def before(self) -> tuple[ir.Model, list[GemmGroup], Mapping[str, Activation]]:
        """The graph as exported, with its groups and their statistics."""
        graph = load_graph(self.fp32)
        groups = self.groups(graph)
        return graph, groups, self.observe(graph, groups)

    @cached_property
    def after(self) -> tuple[ir.Model, list[GemmGroup], list[Activation], Counter[Fold]]:
        """The smoothed graph, with its groups, the statistics they should have, and the folds."""
        graph = load_graph(self.fp32)
        groups, observed = self.groups(graph), self.before[2]
        smoother = Smoother(graph.graph, groups)
        smoothed, said = [], []
        folds: Counter[Fold] = Counter()
        for group in reversed(groups):
            seen = observed[group.name]
            shift = midrange(seen) if smoother.can_shift(group) else np.zeros_like(seen.low)
            weights = [gemm.weight for gemm in group.gemms]
            factors = smoothing_factors(seen.magnitude(shift), weights, 0.9)
            folds[smoother.fold_of(group)] += 1
            smoothed.append(smoother.smooth(group, shift, factors))
            said.append(seen.transformed(shift, factors))
        return graph, smoothed[::-1], said[::-1], folds


CASES = [(name, Exporter.torch) for name in ARCHITECTURES]
CASES += [(name, Exporter.optimum) for name in ("bert", "mpnet", "distilbert", "modernbert")]


@pytest.fixture(scope="module", params=CASES, ids=lambda case: f"{case[0]}-{case[1].value}")
def encoder(
    request: pytest.FixtureRequest,
    export_encoder: Callable[[str, Exporter], tuple[SourceModel, OnnxModel]],
    calibration_texts: Sequence[str],
) -> Encoder:
    """Every architecture by the torch exporter, some by optimum as well."""
    name, exporter = request.param
    source, fp32 = export_encoder(name, exporter)
    return Encoder(
        architecture=ARCHITECTURES[name], source=source, fp32=fp32, texts=calibration_texts
    )


@pytest.fixture(scope="module")
def int8(encoder: Encoder, tmp_path_factory: pytest.TempPathFactory) -> Graphs:
    """The encoder in int8 with the product's settings."""
    config = PrecisionConfig(name="int8", type=NumericType.int8)
    out_dir = tmp_path_factory.mktemp("int8") / "out"
    return quantize(encoder.fp32, encoder.source, config, encoder.texts, out_dir)


@pytest.fixture(scope="module")
def batch(encoder: Encoder, evaluation_texts: Sequence[str]) -> TokenBatch:
    """The evaluation texts as one padded batch."""
    return encoder.tokenizer.pad(encoder.tokenizer.rows(evaluation_texts))


def excess(seen: Activation) -> float:
    """Return how much larger the largest channel is than the median one."""
    return float(seen.magnitude().max() / np.median(seen.magnitude()))


def tokens(graph: ir.Model, batch: TokenBatch, path: Path) -> tuple[FloatArray, FloatArray]:
    """Return what the last norm gives for every real token, and the embeddings."""
    norms = [node for node in graph.graph if node.op_type == "LayerNormalization"]
    graph.graph.outputs.append(norms[-1].outputs[0])
    try:
        save_graph(graph, path, precision=NumericType.fp32, source_sha256="")
    finally:
        graph.graph.outputs.pop()
    session = open_session(path)
    names = [value.name for value in session.get_inputs()]
    states, embeddings = session.run([norms[-1].outputs[0].name, GRAPH_OUTPUT], batch.feed(names))
    return states[batch.attention_mask == 1], embeddings


def test_every_linear_layer_of_the_encoder_is_found(encoder: Encoder) -> None:
    """Those that PyTorch runs on token tensors, by their weights."""
    model = load_sentence_transformer(
        encoder.source.path, device="cpu", trust_remote_code=False, attention="eager"
    )
    expected: list[FloatArray] = []

    def note(module: torch.nn.Linear, inputs: tuple[torch.Tensor], _: torch.Tensor) -> None:
        if inputs[0].dim() == 3:  # of BERT's pooler, which nothing reads, it is 2
            expected.append(module.weight.detach().numpy().T)

    for module in model.modules():
        if isinstance(module, torch.nn.Linear):
            module.register_forward_hook(note)
    with torch.inference_mode():
        model(model.preprocess(["a text"]))
    found = [gemm.weight for group in encoder.before[1] for gemm in group.gemms]
    assert len(found) == len(expected) >= 4 * LAYERS
    for weight, module_weight in zip(found, expected, strict=True):
        np.testing.assert_array_equal(weight, module_weight)


def test_every_fold_is_recognized(encoder: Encoder) -> None:
    assert encoder.after[3] == encoder.architecture.folds


def test_smoothing_leaves_the_fp32_function_unchanged_token_by_token(
    encoder: Encoder, batch: TokenBatch, tmp_path: Path
) -> None:
    before = tokens(load_graph(encoder.fp32), batch, tmp_path / "before.onnx")
    after = tokens(encoder.after[0], batch, tmp_path / "after.onnx")
    for expected, observed in zip(before, after, strict=True):
        assert row_cosines(expected, observed).min() >= 0.99999
        np.testing.assert_allclose(observed, expected, atol=2e-3 * np.abs(expected).max())


def test_outliers_are_gone_from_every_group(encoder: Encoder) -> None:
    graph, groups, said, _ = encoder.after
    measured = encoder.observe(graph, groups)
    assert min(excess(seen) for seen in encoder.before[2].values()) > 5
    for group, expected in zip(groups, said, strict=True):
        seen = measured[group.name]
        assert excess(seen) < 3, group.name
        reach = float(expected.magnitude().max())
        np.testing.assert_allclose(seen.low, expected.low, atol=1e-2 * reach)
        np.testing.assert_allclose(seen.high, expected.high, atol=1e-2 * reach)


def test_int8_recovers_what_outliers_wreck(
    encoder: Encoder, int8: Graphs, batch: TokenBatch, tmp_path: Path
) -> None:
    rough, observed = load_graph(encoder.fp32), encoder.before[2]
    insert_naive_qdq(rough.graph, find_gemm_groups(rough.graph), observed)
    prune(rough)
    path = tmp_path / "rough.onnx"
    save_graph(rough, path, precision=NumericType.int8, source_sha256="")
    reference = OnnxRuntimeEncoder(encoder.fp32.path).encode(batch)
    without = row_cosines(reference, OnnxRuntimeEncoder(path).encode(batch))
    for form in (int8.portable, int8.buildable):
        smoothed = row_cosines(reference, OnnxRuntimeEncoder(form.path).encode(batch))
        assert smoothed.mean() > 0.9998
        assert smoothed.min() > 0.99
    assert without.mean() < 0.97


def test_the_report_says_where_smoothing_went(encoder: Encoder, int8: Graphs) -> None:
    said = dict((int8.quantization or {})["smoothing"])
    gated = encoder.architecture.folds.get(Fold.gated_projection, 0)
    assert said.pop("not_shifted", 0) == gated
    assert said == {fold.value: count for fold, count in encoder.architecture.folds.items()}


@pytest.mark.skipif(not is_installed("tensorrt_rtx"), reason="tensorrt_rtx is not installed")
@pytest.mark.parametrize(
    "encoder",
    [(name, Exporter.torch) for name in ("mpnet", "distilbert", "modernbert")],
    indirect=True,
    ids=lambda case: case[0],
)
def test_tensorrt_rtx_builds_the_int8_graph(encoder: Encoder, int8: Graphs, tmp_path: Path) -> None:
    config = EngineConfig()
    profiles = make_profiles(config, max_length=MAX_LENGTH)[:1]
    engine = build(int8.buildable, "tensorrt_rtx", profiles, config, tmp_path, tmp_path)
    assert engine.path.stat().st_size > 0
    assert engine.layer_types["int8"] > 0
