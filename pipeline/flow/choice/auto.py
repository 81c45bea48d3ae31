"""Try every candidate precision, and publish the fastest that passes its gates."""

import logging
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

from pipeline.bundle.place import staging
from pipeline.config import Device, PipelineConfig
from pipeline.contracts import Outcome
from pipeline.engines.gpu import find_gpu
from pipeline.errors import (
    BuildError,
    CastError,
    ConfigError,
    MeasureError,
    OptimizeError,
    QuantizeError,
)
from pipeline.flow.checks import check
from pipeline.flow.choice.speeds import BATCH, speed_of
from pipeline.flow.choice.target import Target, find_target
from pipeline.flow.choice.tried import Tried, choose, list_tried
from pipeline.flow.placing import Candidate, place
from pipeline.flow.run import limits, make_candidate, open_store
from pipeline.text.datasets import load_dataset, spread

log = logging.getLogger(__name__)

_OF_ONE = (CastError, QuantizeError, OptimizeError, BuildError, MeasureError)
"""What one precision may fail with where another does not."""


def run_auto(configs: Sequence[PipelineConfig]) -> Outcome:
    """Run the pipeline for one model at each precision of ``configs``, and publish one of them.

    They differ in their precision only. The one chosen is published as if it had been named; of one
    that failed a gate the report is left in ``<precision>.rejected/``, as of a run of its own. Each
    of these reports holds the table of all (``auto``).

    Raises:
        ConfigError: a setting that no precision can be tried with, or no such target.
        PipelineError: no candidate could be tried, or the one chosen not be published.
    """
    first = configs[0]
    _check(configs)
    target = find_target(first, find_gpu())
    if target.device == "cpu":
        configs = [_on_cpu(config) for config in configs]
    unfit = _unfit(configs, target)
    store = open_store(first)
    texts = spread(load_dataset(first.dataset).evaluation, first.validate.max_sentences)
    tried: list[Tried] = []
    candidates: dict[str, Candidate] = {}
    with ExitStack() as places:
        for number, config in enumerate(configs, start=1):
            name = config.precision.name
            log.info(
                "precision=auto for %s: %s, %d of %d", target.label, name, number, len(configs)
            )
            if name in unfit:
                tried.append(Tried(precision=name, built=False, missing=unfit[name]))
                continue
            work = places.enter_context(staging(Path(first.artifacts_dir)))
            try:
                candidates[name] = make_candidate(config, store, work)
            except _OF_ONE as error:
                tried.append(Tried(precision=name, built=False, missing=str(error)))
                continue
            tried.append(_judge(candidates[name], target, texts))
        outcome = _place(tried, candidates, target)
    if outcome.published:
        store.collect(limits(first.cache))
    return outcome


def _check(configs: Sequence[PipelineConfig]) -> None:
    """Refuse candidates that cannot be told apart, or that no gate would hold to anything.

    Raises:
        ConfigError: see the messages.
    """
    names = [config.precision.name for config in configs]
    if len(set(names)) < len(names):
        raise ConfigError(
            f"precision.candidates: two are named alike ({', '.join(names)}); name each once, and "
            "leave precision.name out"
        )
    if not configs[0].validate.enabled:
        raise ConfigError("precision=auto chooses by gates and speed: leave validate=off out")


def _on_cpu(config: PipelineConfig) -> PipelineConfig:
    return replace(config, validate=replace(config.validate, device=Device.cpu))


def _unfit(configs: Sequence[PipelineConfig], target: Target) -> dict[str, str]:
    """Return why a candidate is not tried, by its name.

    Raises:
        ConfigError, BuildError: none can be; the words are those of the first.
    """
    reasons: dict[str, str] = {}
    refused: list[Exception] = []
    for config in configs:
        lacks = target.lacks.get(config.precision.type)
        if lacks is not None:
            reasons[config.precision.name] = lacks
            continue
        try:
            check(config)
        except (ConfigError, BuildError) as error:
            reasons[config.precision.name] = str(error)
            refused.append(error)
    if len(reasons) == len(configs):
        if refused:
            raise refused[0]
        raise ConfigError(f"precision=auto for {target.label}: {_sentence(reasons)}")
    return reasons


def _judge(candidate: Candidate, target: Target, texts: Sequence[str]) -> Tried:
    speed = speed_of(candidate, target, texts)
    ran = {a["name"]: a for a in candidate.report.data["artifacts"] if a["executed"]}
    fastest = "" if isinstance(speed, str) else speed.data["artifact"]
    kept = ran.get(fastest, ran["onnxruntime"])["agreement"]
    return Tried(
        precision=candidate.config.precision.name,
        cosine_mean=kept["cosine"]["mean"],
        failed_gates=candidate.report.failed_gates,
        speed=None if isinstance(speed, str) else speed,
        missing=speed if isinstance(speed, str) else None,
    )


def _place(tried: Sequence[Tried], candidates: Mapping[str, Candidate], target: Target) -> Outcome:
    """Publish the one chosen, and leave the reports of those that failed.

    Raises:
        MeasureError: nothing passed, and no gate is the reason.
    """
    chosen = choose(tried)
    table: dict[str, Any] = {
        "target": target.label,
        "measured": target.device is not None,
        "batch": None if target.peaks is None else BATCH,
        "chosen": None if chosen is None else chosen.precision,
        "tried": list_tried(tried, chosen),
    }
    rejected = [
        place(candidates[item.precision], {"auto": table}) for item in tried if item.failed_gates
    ]
    if chosen is not None:
        return place(candidates[chosen.precision], {"auto": table})
    if rejected:
        return rejected[0]
    reasons = {item.precision: item.missing or "" for item in tried}
    raise MeasureError(f"precision=auto for {target.label}: {_sentence(reasons)}")


def _sentence(reasons: Mapping[str, str]) -> str:
    return "nothing to choose from: " + "; ".join(f"{name}: {why}" for name, why in reasons.items())
