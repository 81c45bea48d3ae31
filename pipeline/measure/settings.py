"""Refuse settings of ``validate`` that are out of range."""

from pipeline.config import ValidateConfig
from pipeline.errors import ConfigError
from pipeline.measure.gates import check_gates
from pipeline.measure.speed.intervals import LEAST_ROUNDS
from pipeline.text.datasets import MIN_EVALUATION


def check_validate(config: ValidateConfig) -> None:
    """Refuse settings out of range before anything slow runs.

    Raises:
        ConfigError: see the messages.
    """
    for name, least in (
        ("batch_size", 1),
        ("max_sentences", MIN_EVALUATION),
        ("timing_sentences", 1),
        ("min_rounds", LEAST_ROUNDS),
        ("latency_runs", 1),
        ("worst_texts", 0),
        ("check_texts", 0),
        ("budget_s", 0),
        ("narrow", 0),
    ):
        if not getattr(config, name) >= least:
            raise ConfigError(f"validate.{name}={getattr(config, name)}: expected at least {least}")
    if config.max_rounds < config.min_rounds:
        raise ConfigError(
            f"validate.max_rounds={config.max_rounds}: expected at least "
            f"validate.min_rounds={config.min_rounds}"
        )
    for name, values in (("batch", config.grid.batch), ("sequence", config.grid.sequence)):
        if any(value < 1 for value in values):
            raise ConfigError(f"validate.grid.{name}={values}: expected numbers from 1")
    check_gates(config.gates)
