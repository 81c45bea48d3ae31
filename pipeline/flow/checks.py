"""Refuse settings that cannot work before anything slow runs."""

from pathlib import Path

from pipeline.bundle.sharing.transfer import references
from pipeline.bundle.signing import check_key
from pipeline.config import (
    CacheConfig,
    EngineChoice,
    HighPrecision,
    NumericType,
    PipelineConfig,
)
from pipeline.engines.fp8_gpus import fp8_target
from pipeline.engines.gpu import find_gpu
from pipeline.errors import ConfigError
from pipeline.measure.settings import check_validate
from pipeline.quant.calibrate.settings import check_quantize


def check(config: PipelineConfig) -> None:
    """Refuse settings out of range, and those that contradict the model.

    Raises:
        ConfigError: see the messages.
        BuildError: fp8 for a GPU without it.
    """
    if config.precision.candidates:
        raise ConfigError("precision.candidates: one run has one precision; run_auto chooses")
    check_validate(config.validate)
    check_quantize(config.precision)
    _check_half(config)
    _check_fp8(config)
    _check_cache(config.cache)
    _check_publish(config)


def _check_half(config: PipelineConfig) -> None:
    """Refuse fp16 for a model whose config says that it does not fit.

    Raises:
        ConfigError: precision=fp16, or int8 with fp16 between its GEMMs.
    """
    kind, between = config.precision.type, config.precision.high_precision
    if config.model.fp16 or kind in (NumericType.fp32, NumericType.bf16):
        return
    refused = f"model {config.model.name} does not fit fp16 (model.fp16=false): "
    if kind is NumericType.fp16:
        raise ConfigError(
            f"{refused}set precision=bf16 or fp32, or precision=int8 "
            "precision.high_precision=fp32; model.fp16=true tries it, what overflows on the "
            "calibration text kept in fp32"
        )
    if between is HighPrecision.fp16:
        raise ConfigError(f"{refused}set precision.high_precision=fp32")


def _check_fp8(config: PipelineConfig) -> None:
    """Refuse fp8 engines for this machine's GPU where that has none.

    Raises:
        BuildError: it has no fp8.
    """
    if (
        config.precision.type is NumericType.fp8
        and config.engine.runtime is not EngineChoice.onnxruntime
    ):
        fp8_target(find_gpu())


def _check_cache(config: CacheConfig) -> None:
    for name in ("max_gib", "max_age_days"):
        value = getattr(config, name)
        if value is not None and not value >= 0:
            raise ConfigError(f"cache.{name}={value}: expected 0 or more, or null for no limit")


def _check_publish(config: PipelineConfig) -> None:
    """Refuse what could not be done with a bundle once it is there.

    Raises:
        ConfigError: a bundle that is to be pushed, but not validated.
        PublishError: a private key that cannot sign.
        ShareError: a name that is none, or a package that is missing.
    """
    publish = config.publish
    if references(publish) and not config.validate.enabled:
        raise ConfigError(
            "publish.hub and publish.oci push validated bundles only: leave them out, or set "
            "validate=default"
        )
    if publish.signing.key is not None:
        check_key(Path(publish.signing.key))
