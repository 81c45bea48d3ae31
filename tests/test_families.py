"""Every family of sentence encoders, by tiny random models with its exact module chain."""

import importlib.util
import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
import pytest
from architectures import make_tokenizer
from cuda_library import run_on_library
from families import FAMILIES, TRANSFORMERS, Family, encoder_of, save_family, skip_where_older
from more_families import MORE, ON_EVERY_COMMIT, STOPS

from pipeline.config import (
    Device,
    EngineConfig,
    Exporter,
    ModelConfig,
    NumericType,
    PlanGatesConfig,
    PrecisionConfig,
    Rounding,
)
from pipeline.contracts import Graphs, OnnxModel, SourceModel
from pipeline.engines import Encoder
from pipeline.engines.gpu import is_installed
from pipeline.engines.layers.records import read_layers
from pipeline.engines.onnxruntime import OnnxRuntimeEncoder
from pipeline.engines.torch import TorchEncoder
from pipeline.errors import ExportError, QuantizeError
from pipeline.graph.engine_forms.rewrite import rewrite_for_engines
from pipeline.graph.files import load_graph
from pipeline.measure.plan_gates import apply_plan_gates, promise_of
from pipeline.quant.refine.torch_graph import TorchGraph
from pipeline.runtime import TextEncoder
from pipeline.stages.build import build, make_profiles
from pipeline.stages.cast import cast
from pipeline.stages.export import export
from pipeline.stages.fuse import fuse
from pipeline.stages.optimize import optimize
from pipeline.stages.quantize import quantize
from pipeline.stages.resolve import resolve
from pipeline.text.datasets import Dataset
from pipeline.text.tokens import TokenBatch, Tokenizer
from pipeline.vectors import row_cosines

FloatArray = npt.NDArray[np.float32]
ATTENTION = ("Attention", "MultiHeadAttention")
Record = Callable[[str, object], None]

ALL = FAMILIES | MORE
FIRST_OF_ALL = {
    "test_the_description_is_the_checkpoints",
    "test_every_length_and_padding_equals_the_sentence_transformer",
}
"""What is tested of every family each time; the rest of those that are not like another."""
ALIKE = {
    "bge",
    "mxbai",
    "distilroberta",
    "bge-m3",
    "modernbert-embed",
    "qwen3-right",
    "max",
    "layer-norm",
    *MORE,
}


def is_whole(name: str, test: str) -> bool:
    """Whether a test of a family takes part only where every one was asked for."""
    if test in FIRST_OF_ALL:
        return name in MORE and name not in ON_EVERY_COMMIT
    return name in ALIKE


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Give each test its families; ``-m "whole or not whole"`` runs every one of every family."""
    if "built" not in metafunc.fixturenames:
        return
    test = metafunc.function.__name__
    families = [
        pytest.param(name, marks=pytest.mark.whole if is_whole(name, test) else ()) for name in ALL
    ]
    metafunc.parametrize("built", families, indirect=True, scope="module")


@dataclass(frozen=True, kw_only=True)
class Built:
    """A family's model, its fp32 graph, and the Sentence Transformer it has to equal."""

    family: Family
    directory: Path
    source: SourceModel
    fp32: OnnxModel
    root: Path
    calibration: Sequence[str]

    @property
    def masks_of_numbers(self) -> bool:
        """transformers 4 computes ModernBERT's masks as numbers: what adds them stays in fp32."""
        return self.family.config == "ModernBertConfig" and TRANSFORMERS < 5

    @cached_property
    def reference(self) -> Any:
        from sentence_transformers import SentenceTransformer

        loaded = SentenceTransformer(
            str(self.directory), device="cpu", model_kwargs={"dtype": "float32"}
        )
        return loaded.float()

    @cached_property
    def optimized(self) -> Graphs:
        graphs = Graphs(portable=self.fp32, buildable=self.fp32)
        return optimize(graphs, self.source, self.calibration, self.root / "optimize")

    @cached_property
    def int8(self) -> Graphs:
        config = PrecisionConfig(
            name="int8",
            type=NumericType.int8,
            smoothing_alphas=[0.8],
            spans_per_sentence=1,
            rounding=Rounding.nearest,
        )
        out_dir = self.root / "quantize"
        return quantize(self.fp32, self.source, config, self.calibration, out_dir)

    @cached_property
    def fused(self) -> OnnxModel:
        return fuse(self.fp32, self.source, self.calibration, self.root / "fuse")

    def encoder(self, engine: Encoder) -> TextEncoder:
        return encoder_of(self.source, engine)

    def cosines(self, engine: Encoder, texts: Sequence[str]) -> npt.NDArray[np.float64]:
        expected = self.reference.encode(list(texts), batch_size=8)
        return row_cosines(expected, self.encoder(engine).encode(texts, batch_size=16))


@pytest.fixture(scope="module")
def built(
    request: pytest.FixtureRequest,
    sample: Dataset,
    calibration_texts: Sequence[str],
    tmp_path_factory: pytest.TempPathFactory,
) -> Built:
    name: str = request.param
    family = ALL[name]
    skip_where_older(family)
    root = tmp_path_factory.mktemp(name)
    directory = save_family(family, make_tokenizer(sample.calibration), root)
    source = resolve(ModelConfig(name=name, directory=str(directory)), root / "resolve")
    fp32 = export(source, Exporter.torch, calibration_texts, root / "export")
    return Built(
        family=family,
        directory=directory,
        source=source,
        fp32=fp32,
        root=root,
        calibration=calibration_texts,
    )


def test_the_description_is_the_checkpoints(built: Built) -> None:
    family, source = built.family, built.source
    expected = ["Transformer", *(type(module).__name__ for module in family.chain())]
    assert list(source.modules) == expected
    assert source.dimension == built.reference.get_embedding_dimension()
    assert source.prompts == family.saved.get("prompts", {})
    assert source.default_prompt == family.saved.get("default_prompt_name")
    settings = json.loads((source.assets / "tokenizer_config.json").read_text())
    assert settings.get("padding_side", "right") == family.padding
    if family.shard != "5GB":
        assert len(source.weights) > 1


def test_every_length_and_padding_equals_the_sentence_transformer(
    built: Built, sample: Dataset
) -> None:
    """Texts of 1 token to beyond the limit, alone, together and with padding to spare."""
    words = " ".join(sample.evaluation).split()
    texts = ["", *(" ".join(words[:n]) for n in range(1, 64, 3))]
    expected = built.reference.encode(texts, batch_size=1)
    for path in (built.fp32.path, built.optimized.portable.path):
        engine = OnnxRuntimeEncoder(path)
        encoder = built.encoder(engine)
        rows = encoder.tokenizer.rows(texts, built.source.prefix)
        padded = encoder.tokenizer.pad(rows)
        wider = encoder.tokenizer.pad(rows[:4], length=built.source.max_length)
        for observed in (
            engine.encode(padded),
            encoder.encode(texts, batch_size=1),
            encoder.encode(texts, batch_size=5),
        ):
            assert row_cosines(expected, observed).min() >= 0.99999
            np.testing.assert_allclose(observed, expected, atol=2e-4 * np.abs(expected).max())
        assert row_cosines(expected[:4], engine.encode(wider)).min() >= 0.99999


def test_the_graph_computes_what_the_modules_do_on_the_other_padding_side(
    built: Built, evaluation_texts: Sequence[str], record_property: Record
) -> None:
    """Where positions are learned, that is another vector than the text's own, in both."""
    tokenizer = built.encoder(OnnxRuntimeEncoder(built.fp32.path)).tokenizer
    batch = turn(tokenizer.pad(tokenizer.rows(evaluation_texts[:8])))
    expected = TorchEncoder(built.source, device=Device.cpu).encode(batch)
    observed = OnnxRuntimeEncoder(built.fp32.path).encode(batch)
    cosines = row_cosines(expected, observed)
    record_property("cosine", float(cosines.min()))
    assert cosines.min() >= 0.99999


def turn(batch: TokenBatch) -> TokenBatch:
    """Return the batch with each row's padding on its other side."""
    kept = batch.attention_mask.astype(bool)
    shifts = np.where(kept[:, 0], 1, -1) * (~kept).sum(axis=1)
    turned = (
        np.stack([np.roll(row, shift) for row, shift in zip(rows, shifts, strict=True)])
        for rows in (batch.input_ids, batch.attention_mask, batch.token_type_ids)
    )
    ids, mask, types = turned
    return TokenBatch(input_ids=ids, attention_mask=mask, token_type_ids=types)


def test_every_prompt_equals_the_sentence_transformers(
    built: Built, evaluation_texts: Sequence[str]
) -> None:
    encoder = built.encoder(OnnxRuntimeEncoder(built.fp32.path))
    texts = evaluation_texts[:4]
    for name in (None, "query", "document", *built.source.prompts):
        expected = built.reference.encode(list(texts), prompt_name=name)
        np.testing.assert_allclose(encoder.encode(texts, prompt_name=name), expected, atol=1e-4)


def test_pytorch_runs_the_graph_for_reconstruction_and_targets(
    built: Built, evaluation_texts: Sequence[str]
) -> None:
    """``int8_max`` and ``precision.target`` need every operator of it."""
    if built.family.refuses_int8:
        pytest.skip("int8 covers nothing of it")
    graph = load_graph(built.fp32)
    engine = OnnxRuntimeEncoder(built.fp32.path)
    tokenizer = built.encoder(engine).tokenizer
    batch = tokenizer.pad(tokenizer.rows(evaluation_texts[:8]))
    expected = engine.encode(batch)
    (observed,) = TorchGraph(graph.graph).run(batch, list(graph.graph.outputs))
    np.testing.assert_allclose(observed.numpy(), expected, atol=1e-4 * np.abs(expected).max())


def test_attention_is_one_operator_only_where_the_mask_is_padding(
    built: Built, record_property: Record
) -> None:
    """Causal, local and rotary attention stay as they are."""
    graph = load_graph(built.optimized.portable)
    fused = [node for node in graph.graph if node.op_type == "MultiHeadAttention"]
    record_property("fused", len(fused))
    assert built.family.fused in (None, len(fused))


def test_the_rewrites_for_engines_are_exact(built: Built, sample: Dataset, tmp_path: Path) -> None:
    """Rotary and grouped-query attention stay as they are; what is rewritten computes the same."""
    graph = load_graph(built.fp32)
    made = rewrite_for_engines(graph)
    if built.family.fused is not None:
        assert made["pack_projections"] == made["sequence_first"] == built.family.fused
    ir.save(graph, tmp_path / "engine.onnx")
    tokenizer = Tokenizer(built.source.assets, max_length=built.source.max_length)
    rows = tokenizer.rows(["", *sample.evaluation[:40]])
    before, after = (OnnxRuntimeEncoder(p) for p in (built.fp32.path, tmp_path / "engine.onnx"))
    wide = tokenizer.pad(rows[:3], length=built.source.max_length)
    for batch in (tokenizer.pad(rows), wide, *(tokenizer.pad([row]) for row in rows[:4])):
        expected, observed = before.encode(batch), after.encode(batch)
        assert row_cosines(expected, observed).min() >= 0.999999
        np.testing.assert_allclose(observed, expected, atol=1e-5 * np.abs(expected).max())


def test_fp16_agrees(
    built: Built, evaluation_texts: Sequence[str], record_property: Record
) -> None:
    half = cast(built.fp32, built.source, built.calibration, built.root / "cast")
    cosines = built.cosines(OnnxRuntimeEncoder(half.path), evaluation_texts)
    record_property("cosine", float(cosines.min()))
    assert cosines.min() >= 0.999


def test_the_graph_for_cuda_is_the_sentence_transformer_at_every_length_and_padding(
    built: Built, sample: Dataset, record_property: Record
) -> None:
    """On the CPU, which runs the same operators: what they compute, not how fast."""
    operators = Counter(node.op_type for node in load_graph(built.fused).graph)
    record_property("fused", operators["Attention"] + operators["MultiHeadAttention"])
    if built.family.fused is not None:
        assert operators["Attention"] == built.family.fused
        assert operators["Attention"] + operators["MultiHeadAttention"] == 2
        assert not operators["Softmax"]
    words = " ".join(sample.evaluation).split()
    texts = ["", *(" ".join(words[:n]) for n in range(1, 64, 3))]
    expected = built.reference.encode(texts, batch_size=1)
    engine = OnnxRuntimeEncoder(built.fused.path)
    encoder = built.encoder(engine)
    rows = encoder.tokenizer.rows([built.source.prefix + text for text in texts])
    wider = encoder.tokenizer.pad(rows[:4], length=built.source.max_length)
    for observed in (engine.encode(encoder.tokenizer.pad(rows)), encoder.encode(texts, 1)):
        assert np.isfinite(observed).all()
        assert row_cosines(expected, observed).min() >= 0.9999
    assert row_cosines(expected[:4], engine.encode(wider)).min() >= 0.9999


def test_onnx_runtimes_cuda_provider_takes_the_graph_for_cuda_whole(
    built: Built, cuda_library: Path
) -> None:
    shapes = [(2, 16), (3, 9)]
    said, calls = run_on_library(cuda_library, built.fused.path, shapes)
    assert said["graphs"] == len(shapes)
    during = [call for call in calls if call.captured]
    copies = {call.detail for call in during if call.name == "cudaMemcpyAsync"}
    assert copies <= {"device to device"}
    assert "forbidden" not in {call.name for call in calls}
    blocks = [node for node in load_graph(built.fused).graph if node.op_type in ATTENTION]
    halves = [n for n in blocks if n.inputs[0] and n.inputs[0].dtype is ir.DataType.FLOAT16]
    assert len(halves) == len(blocks) - built.masks_of_numbers  # of its two, one is local
    added = [node for node in halves if len(node.inputs) > 5 and node.inputs[5] is not None]
    fused = [call for call in during if "attention_kernel_batched" in call.detail]
    assert len(fused) == len(added)  # of 16 tokens; of 9 such kernels do not read what is added


def test_int8_agrees(
    built: Built, evaluation_texts: Sequence[str], record_property: Record
) -> None:
    """Random weights have no structure that rounding could keep, trained ones do better."""
    if built.family.refuses_int8:
        with pytest.raises(QuantizeError, match=built.family.refuses_int8) as caught:
            _ = built.int8
        record_property("stops", str(caught.value))
        return
    said = built.int8.quantization or {}
    assert said["gemms"] == said["gemms_int8"] >= 8
    faster = optimize(built.int8, built.source, built.calibration, built.root / "faster")
    cosines = built.cosines(OnnxRuntimeEncoder(faster.portable.path), evaluation_texts)
    record_property("cosine", float(cosines.mean()))
    record_property("gemms", said["gemms"])
    assert cosines.mean() >= 0.995
    assert cosines.min() >= 0.97


@pytest.mark.skipif(
    importlib.util.find_spec("openvino") is None, reason="openvino is not installed"
)
def test_openvino_agrees(built: Built, evaluation_texts: Sequence[str]) -> None:
    from pipeline.engines.openvino import OpenVINOEncoder

    engine = OpenVINOEncoder(built.optimized.portable.path, NumericType.fp32)
    assert built.cosines(engine, evaluation_texts).min() >= 0.9999


@pytest.mark.skipif(not is_installed("tensorrt_rtx"), reason="tensorrt_rtx is not installed")
def test_a_tensorrt_rtx_plan_runs_what_int8_says(
    built: Built, tmp_path: Path, record_property: Record
) -> None:
    if built.family.refuses_int8:
        pytest.skip("int8 covers nothing of it")
    config = EngineConfig()
    profiles = make_profiles(config, max_length=built.source.max_length)[:1]
    engines = optimize(built.int8, built.source, built.calibration, tmp_path / "forms").buildable
    engine = build(engines, "tensorrt_rtx", profiles, config, tmp_path, tmp_path)
    assert engine.layers is not None
    gates = apply_plan_gates(
        read_layers(engine.layers),
        promise_of(NumericType.int8, built.int8.quantization),
        PlanGatesConfig(int8_gemms=1, gemm_types=1, attention_fused={"int8": 1}),
    )
    details = {gate.name: gate.detail for gate in gates}
    attention = details.pop("plan.attention_fused")
    assert details.keys() - {"plan.gemm_types"} == {"plan.int8_gemms"}
    assert attention is not None or "plan.gemm_types" in details  # in parts it has no GEMM to judge
    record_property("attention", attention or "fused")
    record_property("faults", "; ".join(filter(None, details.values())))
    if built.masks_of_numbers:
        assert "computes in fp32" in str(details)
        return
    assert set(details.values()) == {None}
    if built.family.fused is not None:
        assert attention is None
    assert read_layers(engine.layers).attention_in_fp32 == ()


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=() if n == "fnet" else pytest.mark.whole) for n in STOPS]
)
def test_what_no_graph_can_hold_stops_at_export_by_its_name(
    name: str,
    sample: Dataset,
    calibration_texts: Sequence[str],
    tmp_path: Path,
    record_property: Record,
) -> None:
    skip_where_older(STOPS[name])
    directory = save_family(STOPS[name], make_tokenizer(sample.calibration), tmp_path)
    source = resolve(ModelConfig(name=name, directory=str(directory)), tmp_path / "resolve")
    encoder = STOPS[name].config.replace("Config", "Model")
    reason = rf"cannot export .*\({encoder} → Pooling → Normalize\)|{encoder}.* padded to 48"
    with pytest.raises(ExportError, match=reason) as caught:
        export(source, Exporter.torch, calibration_texts, tmp_path / "export")
    record_property("stops", str(caught.value).replace(source.location, name))
