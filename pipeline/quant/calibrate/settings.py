"""Refuse settings of int8 and fp8 that are out of range."""

from pipeline.config import HighPrecision, NumericType, PrecisionConfig
from pipeline.engines.gpu import is_installed
from pipeline.engines.layers.predict import find_peaks
from pipeline.errors import ConfigError


def check_quantize(config: PrecisionConfig) -> None:
    """Refuse settings out of range before anything slow runs.

    Raises:
        ConfigError: see the messages.
    """
    alphas, fp8 = config.smoothing_alphas, config.type is NumericType.fp8
    if fp8:
        _check_fp8(config)
    if not (alphas or fp8) or not all(0 <= alpha <= 1 for alpha in alphas):
        raise ConfigError(f"precision.smoothing_alphas={alphas}: expected numbers from 0 to 1")
    if not config.activation_scales:
        raise ConfigError("precision.activation_scales=[]: expected max, percentile or mse")
    if config.calibration_sentences < 1:
        raise ConfigError(
            f"precision.calibration_sentences={config.calibration_sentences}: expected at least 1"
        )
    for name in (
        "reconstruction_steps",
        "spans_per_sentence",
        "vocabulary_spans_per_sentence",
    ):
        if getattr(config, name) < 0:
            raise ConfigError(f"precision.{name}={getattr(config, name)}: expected 0 or more")
    for name, most in (("held_back", 0.5), ("split_share", 0.5), ("widen_share", 1)):
        value = getattr(config, name)
        if not 0 <= value <= most:
            raise ConfigError(f"precision.{name}={value}: expected 0 to {most}")
    _check_engine_aware(config)
    target = config.target.cosine_mean
    if target is not None and not 0 < target < 1:
        raise ConfigError(
            f"precision.target.cosine_mean={target}: expected more than 0 and less than 1"
        )


def _check_fp8(config: PrecisionConfig) -> None:
    """Refuse what is made for int8's even steps only."""
    for name, off in (
        ("reconstruction_steps", 0),
        ("split_share", 0.0),
        ("engine_aware", None),
        ("quantize_embeddings", False),
    ):
        if getattr(config, name) != off:
            shown = "null" if off is None else str(off).lower()
            raise ConfigError(
                f"precision.{name}={getattr(config, name)}: is for int8 only; with fp8 set it to "
                f"{shown}"
            )


def _check_engine_aware(config: PrecisionConfig) -> None:
    """Refuse a choice by prediction for an unknown GPU, or without what it is made of."""
    if config.engine_aware is None:
        return
    shown = f"precision.engine_aware={config.engine_aware}"
    find_peaks(config.engine_aware, "precision.engine_aware")
    if config.high_precision is not HighPrecision.fp16:
        raise ConfigError(f"{shown}: compares with fp16; set precision.high_precision=fp16")
    if config.quantize_attention:
        raise ConfigError(f"{shown}: set precision.quantize_attention=false")
    if not is_installed("tensorrt_rtx"):
        raise ConfigError(
            f"{shown}: its plans are TensorRT-RTX's, which is not installed (extra: rtx)"
        )
