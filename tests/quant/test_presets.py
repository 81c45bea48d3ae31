"""The int8 presets: what they set, and that each is published under its own name."""

import json
from pathlib import Path

import command_line
import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from pipeline.config import (
    CONF_DIR,
    NumericType,
    PipelineConfig,
    PrecisionConfig,
    Rounding,
    register_schema,
)
from pipeline.quant.calibrate.settings import check_quantize


def load(preset: str) -> PrecisionConfig:
    register_schema()
    with initialize_config_dir(str(CONF_DIR), version_base="1.3"):
        config = OmegaConf.to_object(compose("config", [f"precision={preset}"]))
    assert isinstance(config, PipelineConfig)
    check_quantize(config.precision)
    return config.precision


@pytest.mark.slow
def test_int8_is_what_the_schema_defaults_to() -> None:
    assert load("int8") == PrecisionConfig(name="int8", type=NumericType.int8)


@pytest.mark.slow
def test_int8_fast_takes_less_text_and_makes_fewer_choices() -> None:
    fast, default = load("int8_fast"), load("int8")
    assert (fast.name, fast.type, fast.rounding) == (
        "int8_fast",
        NumericType.int8,
        Rounding.nearest,
    )
    assert fast.calibration_sentences < default.calibration_sentences
    assert len(fast.smoothing_alphas) == len(fast.activation_scales) == 1
    assert fast.split_share == default.split_share


@pytest.mark.slow
def test_int8_max_is_int8_with_reconstruction_and_more_copies() -> None:
    strongest, default = load("int8_max"), load("int8")
    assert strongest.reconstruction_steps > 0
    assert strongest.split_share > default.split_share
    default.name, default.reconstruction_steps = "int8_max", strongest.reconstruction_steps
    default.split_share = strongest.split_share
    assert strongest.widen_share > 0 == default.widen_share
    default.widen_share = strongest.widen_share
    default.vocabulary_spans_per_sentence = strongest.vocabulary_spans_per_sentence
    assert strongest == default


@pytest.mark.slow
def test_fp8_is_int8_without_what_is_made_for_even_steps() -> None:
    preset, default = load("fp8"), load("int8")
    default.name, default.type = "fp8", NumericType.fp8
    default.split_share, default.smoothing_alphas = 0, []
    default.shift = default.quantize_embeddings = False
    assert preset == default


@pytest.mark.slow
def test_fp8_max_is_fp8_with_wider_gemms() -> None:
    strongest, default = load("fp8_max"), load("fp8")
    assert strongest.widen_share > default.widen_share == 0
    default.name, default.widen_share = "fp8_max", strongest.widen_share
    assert strongest == default


@pytest.mark.many
@pytest.mark.parametrize("preset", ["int8", "int8_fast", "int8_max"])
def test_by_default_every_gemm_is_in_int8_and_attention_is_not(preset: str) -> None:
    assert load(preset).target.cosine_mean is None
    assert not load(preset).quantize_attention


@pytest.mark.slow
def test_int8_fast_is_published_under_its_name(
    tiny_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done = command_line.run_command(
        *command_line.settings(tiny_dir),
        "precision=int8_fast",
        "engine=onnxruntime",
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    published = tmp_path / "artifacts" / "tiny" / "int8_fast"
    assert (published / "model.onnx").stat().st_size > 0
    said = json.loads((published / "report.json").read_text("utf-8"))
    assert "int8_fast" in json.dumps(said)
