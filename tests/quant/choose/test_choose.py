"""precision.engine_aware: which GEMMs are worth int8, by predictions that the tests make up.

What TensorRT-RTX makes of the candidates costs sixteen plans; here a plan's time follows from the
GEMMs that its graph has in int8. One test asks TensorRT-RTX itself.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

from pipeline.config import HighPrecision, NumericType, PrecisionConfig, Rounding
from pipeline.contracts import OnnxModel, Profile, SourceModel
from pipeline.engines.gpu import is_installed
from pipeline.engines.layers.graph import read_graph
from pipeline.engines.layers.records import EngineLayers, Kind, Layer, Size, Tensor
from pipeline.engines.layers.summary import summarize
from pipeline.engines.plan_of_graph import plan_of_graph
from pipeline.errors import ConfigError
from pipeline.graph.files import load_graph
from pipeline.graph.gemms import find_gemm_groups
from pipeline.quant.calibrate.settings import check_quantize
from pipeline.quant.choose import prediction
from pipeline.quant.choose.candidates import write_candidate
from pipeline.quant.choose.plan_as_built import plan_as_built
from pipeline.quant.choose.roles import find_roles
from pipeline.stages.quantize import quantize

QKV = "attention.self.query + attention.self.key + attention.self.value"
OUT, WIDE, NARROW = "attention.output.dense", "intermediate.dense", "output.dense"


def config(gpu: str | None = "l4", target: float | None = None) -> PrecisionConfig:
    made = PrecisionConfig(
        name="int8", type=NumericType.int8, engine_aware=gpu, rounding=Rounding.nearest
    )
    made.target.cosine_mean = target
    return made


@pytest.fixture
def costs(monkeypatch: pytest.MonkeyPatch) -> Callable[[Mapping[str, int]], None]:
    """Return a function that says what int8 for each role spares (negative: costs), in bytes."""

    def say(spares: Mapping[str, int]) -> None:
        def plan(model: OnnxModel, profile: Profile) -> EngineLayers:
            assert profile.max[1] <= 48
            roles = int8_roles(model.path)
            size = 1_000_000 - sum(spares.get(role, 0) for role in roles)
            read = Tensor(name="x", type="int8", dims=(size,), size=Size(factor=size))
            kernel = Layer(
                name="k",
                kind=Kind.move,
                profile=0,
                inputs=(read,),
                constants=(),
                outputs=(),
                nodes=(),
            )
            return EngineLayers(
                runtime="tensorrt_rtx", runtime_version="x", layers=(kernel,), attention=()
            )

        monkeypatch.setattr(prediction, "plan_as_built", plan)
        monkeypatch.setattr("pipeline.quant.calibrate.settings.is_installed", lambda _: True)

    return say


def int8_gemms(path: Path) -> set[str]:
    """The weights that a graph has in int8."""
    found = {i.name for i in onnx.load(path).graph.initializer if i.name.endswith(".weight.int8")}
    return {name.removesuffix(".weight.int8") for name in found}


def int8_roles(path: Path) -> set[str]:
    ends = {name.partition("layer.")[2].partition(".")[2] for name in int8_gemms(path)}
    return {role for role in (QKV, OUT, WIDE, NARROW) if set(role.split(" + ")) <= ends}


def test_roles_of_an_encoder(tiny_fp32: OnnxModel) -> None:
    groups = find_gemm_groups(load_graph(tiny_fp32).graph)
    roles = find_roles(groups, len(read_graph(tiny_fp32.path).attention))
    assert [role.name for role in roles] == [QKV, OUT, WIDE, NARROW]
    assert [len(role.gemms) for role in roles] == [6, 2, 2, 2]
    assert [role.name for role in find_roles(groups, 3)] == ["all GEMMs"]


@pytest.mark.slow
def test_the_fastest_set_is_in_int8_and_the_rest_in_fp16(
    costs: Callable[[Mapping[str, int]], None],
    tiny_fp32: OnnxModel,
    tiny_source: SourceModel,
    calibration_texts: Sequence[str],
    tmp_path: Path,
) -> None:
    costs({QKV: 30_000, OUT: -10_000, WIDE: -50_000, NARROW: 20_000})
    graphs = quantize(tiny_fp32, tiny_source, config(), calibration_texts, tmp_path / "out")
    said = graphs.quantization
    assert said is not None
    assert int8_roles(graphs.buildable.path) == int8_roles(graphs.portable.path) == {QKV, NARROW}
    assert (said["gemms"], said["gemms_int8"]) == (12, 8)
    chosen = said["engine_aware"]
    assert chosen["gpu"] == "L4"
    assert chosen["chosen"] == sorted([QKV, NARROW])
    assert len(chosen["sets"]) == 16
    times = chosen["predicted_ms_a_thousand_texts"]
    assert times["chosen"] < times["fp16"] < times["int8"]
    rows = {row["name"].partition("layer.0.")[2]: row for row in said["gemm_list"]}
    assert rows["attention.self.query"]["int8"]
    assert rows["attention.self.query"]["predicted_gain_us"] > 0
    left = rows["intermediate.dense"]
    assert (left["int8"], left["reason"]) == (False, "no faster in int8 on L4, by prediction")
    assert left["predicted_gain_us"] < 0
    assert all(row["output_error"] > 0 for row in said["gemm_list"])


@pytest.mark.slow
def test_where_no_set_is_faster_fp16_is_kept_and_said(
    costs: Callable[[Mapping[str, int]], None],
    tiny_fp32: OnnxModel,
    tiny_source: SourceModel,
    calibration_texts: Sequence[str],
    tmp_path: Path,
) -> None:
    costs(dict.fromkeys((QKV, OUT, WIDE, NARROW), -10))
    graphs = quantize(tiny_fp32, tiny_source, config(), calibration_texts, tmp_path / "out")
    said = graphs.quantization
    assert said is not None
    assert said["gemms_int8"] == 0
    assert said["method"] == "none: fp16 is the fastest on L4 by prediction"
    assert said["engine_aware"]["chosen"] == []
    assert len(said["gemm_list"]) == 12
    assert int8_gemms(graphs.buildable.path) == set()
    feed = {
        name: np.ones((1, 4), np.int64)
        for name in ("input_ids", "attention_mask", "token_type_ids")
    }
    found = [
        onnxruntime.InferenceSession(str(path)).run(None, feed)[0]
        for path in (tiny_fp32.path, graphs.portable.path, graphs.buildable.path)
    ]
    np.testing.assert_array_equal(found[1], found[0])
    np.testing.assert_allclose(found[2], found[0], atol=2e-3)


@pytest.mark.slow
def test_a_target_that_leaves_nothing_faster_keeps_fp16(
    costs: Callable[[Mapping[str, int]], None],
    tiny_fp32: OnnxModel,
    tiny_source: SourceModel,
    calibration_texts: Sequence[str],
    tmp_path: Path,
) -> None:
    """The GEMMs that meet the agreement are no whole role any more, and spare nothing."""
    costs({QKV: 30_000})
    wanted = config(target=0.99999999)
    graphs = quantize(tiny_fp32, tiny_source, wanted, calibration_texts, tmp_path / "out")
    assert graphs.quantization is not None
    assert graphs.quantization["gemms_int8"] == 0
    assert int8_gemms(graphs.buildable.path) == set()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"engine_aware": "l40"}, r"precision\.engine_aware=l40: no such GPU; choose one of t4"),
        ({"high_precision": HighPrecision.fp32}, r"engine_aware=l4: compares with fp16"),
        ({"quantize_attention": True}, r"engine_aware=l4: set precision\.quantize_attention=false"),
    ],
)
def test_settings_that_contradict_it(changes: Mapping[str, object], message: str) -> None:
    made = config()
    for name, value in changes.items():
        setattr(made, name, value)
    with pytest.raises(ConfigError, match=message):
        check_quantize(made)


def test_without_tensorrt_rtx_it_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.quant.calibrate.settings.is_installed", lambda _: False)
    with pytest.raises(ConfigError, match=r"TensorRT-RTX's, which is not installed \(extra: rtx\)"):
        check_quantize(config())
    check_quantize(config(gpu=None))


@pytest.mark.slow
@pytest.mark.skipif(not is_installed("tensorrt_rtx"), reason="tensorrt_rtx is not installed")
def test_a_plan_of_a_candidate_has_just_those_gemms_in_int8(
    tiny_fp32: OnnxModel, tmp_path: Path
) -> None:
    groups = find_gemm_groups(load_graph(tiny_fp32).graph)
    (qkv, *_) = find_roles(groups, 2)
    candidate = write_candidate(tiny_fp32, qkv.gemms, (), tmp_path / "candidate.onnx")
    short = Profile(min=(1, 1), opt=(8, 32), max=(16, 48))
    summary = summarize(plan_of_graph(candidate.path, profile=short), 0)
    built = summarize(plan_as_built(candidate, short), 0)
    assert summary.gemms == built.gemms == {"int8": 6, "fp16": 6}
    assert built.kernels < summary.kernels  # as engines are: query, key and value packed
