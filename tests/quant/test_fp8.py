"""fp8 end to end on the tiny model: the graph's types, what it keeps, its plan, what is refused."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx
import pytest

from pipeline.config import (
    EngineChoice,
    EngineConfig,
    NumericType,
    PipelineConfig,
    PlanGatesConfig,
    PrecisionConfig,
    Rounding,
    ScaleMethod,
    TargetConfig,
)
from pipeline.contracts import Graphs, OnnxModel, Profile, SourceModel
from pipeline.engines.fp8_gpus import fp8_target
from pipeline.engines.gpu import Gpu, is_installed
from pipeline.engines.onnxruntime import OnnxRuntimeEncoder
from pipeline.errors import BuildError, ConfigError
from pipeline.flow import checks
from pipeline.measure.plan_gates import apply_plan_gates, promise_of
from pipeline.quant.calibrate.settings import check_quantize
from pipeline.stages.optimize import optimize
from pipeline.stages.quantize import quantize
from pipeline.text.tokens import TokenBatch
from pipeline.vectors import row_cosines

FP8 = PrecisionConfig(
    name="fp8",
    type=NumericType.fp8,
    calibration_sentences=64,
    spans_per_sentence=1,
    smoothing_alphas=[],
    activation_scales=[ScaleMethod.max],
    shift=False,
    split_share=0.0,
    quantize_embeddings=False,
)
E4M3 = onnx.TensorProto.FLOAT8E4M3FN


@pytest.fixture(scope="module")
def graphs(
    tiny_fp32: OnnxModel,
    tiny_source: SourceModel,
    calibration_texts: Sequence[str],
    tmp_path_factory: pytest.TempPathFactory,
) -> Graphs:
    out_dir = tmp_path_factory.mktemp("fp8") / "out"
    return quantize(tiny_fp32, tiny_source, FP8, calibration_texts, out_dir)


@pytest.fixture(scope="module")
def wider(
    tiny_fp32: OnnxModel,
    tiny_source: SourceModel,
    calibration_texts: Sequence[str],
    tmp_path_factory: pytest.TempPathFactory,
) -> Graphs:
    out_dir = tmp_path_factory.mktemp("fp8_wider") / "out"
    config = replace(FP8, widen_share=1.0)
    return quantize(tiny_fp32, tiny_source, config, calibration_texts, out_dir)


@pytest.mark.slow
def test_every_linear_gemm_reads_e4m3(graphs: Graphs) -> None:
    said = graphs.quantization
    assert said is not None
    assert (said["type"], said["gemms"], said["gemms_fp8"]) == ("fp8", 12, 12)
    assert {row["fp8"] for row in said["gemm_list"]} == {True}
    assert said["method"].startswith("max activation scales, weight scales of least output error")
    proto = onnx.load(graphs.buildable.path)
    assert next(o.version for o in proto.opset_import if o.domain == "") >= 19
    types = {tensor.name: tensor.data_type for tensor in proto.graph.initializer}
    makers = {name: node for node in proto.graph.node for name in node.output}
    readers = [n for n in proto.graph.node if n.op_type == "MatMul"]
    linear = [
        [makers[name] for name in node.input]
        for node in readers
        if node.input[1] in makers and makers[node.input[1]].input[0] in types
    ]
    assert len(linear) == 12
    for pair in linear:
        assert [node.op_type for node in pair] == ["DequantizeLinear"] * 2
        assert {types[node.input[2]] for node in pair} == {
            E4M3
        }  # a zero point's type is the grid's


@pytest.mark.slow
def test_model_onnx_rounds_to_e4m3_and_keeps_the_weights_in_it(
    graphs: Graphs, tiny_fp32: OnnxModel
) -> None:
    proto = onnx.load(graphs.portable.path)
    weights = [t for t in proto.graph.initializer if t.data_type == E4M3 and len(t.dims) == 2]
    assert len(weights) == 12
    rounding = [n for n in proto.graph.node if n.op_type == "Cast" and n.attribute[0].i == E4M3]
    assert len(rounding) == 8  # a tensor that several GEMMs read is rounded once
    assert graphs.portable.precision is graphs.buildable.precision is NumericType.fp8
    assert graphs.portable.source_sha256 == tiny_fp32.sha256


@pytest.mark.slow
def test_the_graph_keeps_the_vectors_and_better_than_plain_e4m3(
    graphs: Graphs,
    tiny_fp32: OnnxModel,
    tiny_source: SourceModel,
    calibration_texts: Sequence[str],
    evaluation_batch: TokenBatch,
    tmp_path: Path,
) -> None:
    plain = replace(
        FP8,
        rounding=Rounding.nearest,
        bias_correction=False,
    )
    other = quantize(tiny_fp32, tiny_source, plain, calibration_texts, tmp_path / "plain")
    exact = OnnxRuntimeEncoder(tiny_fp32.path).encode(evaluation_batch)
    ours, theirs = (
        1 - row_cosines(exact, OnnxRuntimeEncoder(made.portable.path).encode(evaluation_batch))
        for made in (graphs, other)
    )
    assert 0 < ours.mean() < 0.7 * theirs.mean()


@pytest.mark.slow
def test_channels_that_are_read_twice_keep_more(
    graphs: Graphs, wider: Graphs, tiny_fp32: OnnxModel, evaluation_batch: TokenBatch
) -> None:
    exact = OnnxRuntimeEncoder(tiny_fp32.path).encode(evaluation_batch)
    once, twice = (
        1 - row_cosines(exact, OnnxRuntimeEncoder(made.portable.path).encode(evaluation_batch))
        for made in (graphs, wider)
    )
    assert 0 < twice.mean() < 0.6 * once.mean()


@pytest.mark.slow
def test_the_search_for_a_target_simulates_what_the_graph_computes(
    graphs: Graphs,
    tiny_fp32: OnnxModel,
    tiny_source: SourceModel,
    calibration_texts: Sequence[str],
    tmp_path: Path,
) -> None:
    config = replace(FP8, target=TargetConfig(cosine_mean=0.99999))
    made = quantize(tiny_fp32, tiny_source, config, calibration_texts, tmp_path / "out")
    said: Any = made.quantization
    assert said["gemms_fp8"] < 12
    assert said["target"]["held_back_cosine_mean"] >= 0.99999


@pytest.mark.slow
@pytest.mark.skipif(not is_installed("tensorrt_rtx"), reason="tensorrt_rtx is not installed")
@pytest.mark.parametrize("name", ["graphs", "wider"])
def test_a_plan_runs_every_gemm_in_fp8_with_attention_fused(
    name: str,
    request: pytest.FixtureRequest,
    tiny_source: SourceModel,
    calibration_texts: Sequence[str],
    tmp_path: Path,
) -> None:
    from pipeline.engines.plan_of_graph import plan_of_graph

    graphs: Graphs = request.getfixturevalue(name)
    made = optimize(graphs, tiny_source, calibration_texts, tmp_path / "out")
    shape = Profile(min=(1, 1), opt=(8, 32), max=(16, 48))
    found = plan_of_graph(made.buildable.path, "8.9", profile=shape)
    limits = PlanGatesConfig(int8_gemms=1, fp8_gemms=1, gemm_types=1, attention_fused={"fp8": 1})
    promise = promise_of(NumericType.fp8, made.quantization)
    gates = {gate.name: gate for gate in apply_plan_gates(found, promise, limits)}
    assert set(gates) == {"plan.fp8_gemms", "plan.gemm_types", "plan.attention_fused"}
    assert [gate.detail for gate in gates.values() if not gate.passed] == []
    half = replace(promise, kind=NumericType.int8)
    failing = {gate.name: gate for gate in apply_plan_gates(found, half, limits)}
    assert not failing["plan.int8_gemms"].passed


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("reconstruction_steps", 10),
        ("split_share", 0.02),
        ("quantize_embeddings", True),
    ],
)
def test_what_is_made_for_even_steps_is_refused(name: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=rf"precision\.{name}=.*: is for int8 only"):
        check_quantize(replace(FP8, **{name: value}))


def test_gpus_without_fp8_are_refused_by_name() -> None:
    a10 = Gpu(name="NVIDIA A10", compute_capability=(8, 6), driver=None)
    with pytest.raises(BuildError, match=r"NVIDIA A10 has compute capability 8\.6 and no fp8"):
        fp8_target(a10)
    with pytest.raises(BuildError, match=r"sm_80 has compute capability 8\.0"):
        fp8_target(None, "sm_80")
    hopper = Gpu(name="NVIDIA H100", compute_capability=(9, 0), driver=None)
    assert fp8_target(hopper) == "sm_90"
    assert fp8_target(a10, "sm_120") == "sm_120"
    assert fp8_target(None) == "sm_89"


@pytest.mark.slow
def test_attention_goes_to_fp8_where_it_is_asked_for(
    tiny_fp32: OnnxModel,
    tiny_source: SourceModel,
    calibration_texts: Sequence[str],
    evaluation_batch: TokenBatch,
    tmp_path: Path,
) -> None:
    config = replace(FP8, quantize_attention=True, rounding=Rounding.nearest)
    made = quantize(tiny_fp32, tiny_source, config, calibration_texts[:16], tmp_path / "out")
    said: Any = made.quantization
    assert said["attention_gemms_fp8"] == 4
    quantizing = [n for n in onnx.load(made.buildable.path).graph.node if n.op_type[:5] == "Quant"]
    assert len(quantizing) == 8 + 2 * 4
    exact, ours = (
        OnnxRuntimeEncoder(model.path).encode(evaluation_batch)
        for model in (tiny_fp32, made.portable)
    )
    assert row_cosines(exact, ours).mean() > 0.99


@pytest.mark.slow
@pytest.mark.skipif(not is_installed("tensorrt_rtx"), reason="tensorrt_rtx is not installed")
def test_a_plan_of_fp8_attention_has_its_products_in_fp8_and_unfused(
    make_tiny: Callable[..., Path],
    resolve_dir: Callable[[Path], SourceModel],
    export_torch: Callable[[SourceModel], OnnxModel],
    calibration_texts: Sequence[str],
    tmp_path: Path,
) -> None:
    """Heads of 32, as MiniLM's. Where a later TensorRT-RTX fuses them, docs/precisions.md errs."""
    from pipeline.engines.plan_of_graph import plan_of_graph

    source, texts = resolve_dir(make_tiny(heads=1)), calibration_texts[:16]
    config = replace(FP8, quantize_attention=True, rounding=Rounding.nearest)
    made = quantize(export_torch(source), source, config, texts, tmp_path / "quantized")
    built = optimize(made, source, texts, tmp_path / "optimized").buildable
    shape = Profile(min=(1, 1), opt=(8, 32), max=(16, 48))
    products = [
        f"{layer.kind.value} {layer.type}"
        for layer in plan_of_graph(built.path, "8.9", profile=shape).layers
        if layer.operations is not None
    ]
    linear, attention = 4, 2
    assert products == ["gemm fp8"] * 2 * (linear + attention)


def test_a_run_on_a_gpu_without_fp8_stops_before_anything_is_made(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    t4 = Gpu(name="Tesla T4", compute_capability=(7, 5), driver=None)
    monkeypatch.setattr(checks, "find_gpu", lambda: t4)
    config = PipelineConfig(precision=FP8, engine=EngineConfig(runtime=EngineChoice.auto))
    with pytest.raises(BuildError, match=r"Tesla T4 has compute capability 7\.5 and no fp8"):
        checks._check_fp8(config)
    config.engine.runtime = EngineChoice.onnxruntime
    checks._check_fp8(config)
