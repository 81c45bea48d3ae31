"""validate: settings that are refused, profiles, and how much text is timed."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pipeline.config import GatesConfig, GridConfig, ValidateConfig
from pipeline.contracts import Engine, Profile, SourceModel
from pipeline.errors import ConfigError
from pipeline.measure.bench import choose_timed_text
from pipeline.measure.settings import check_validate
from pipeline.text.tokens import Tokenizer


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"min_rounds": 5}, "validate.min_rounds=5: expected at least 6"),
        ({"max_rounds": 7}, "validate.max_rounds=7: expected at least validate.min_rounds=8"),
        ({"budget_s": -1.0}, "validate.budget_s=-1.0"),
        ({"budget_s": float("nan")}, "validate.budget_s=nan"),
        ({"narrow": -0.1}, "validate.narrow=-0.1"),
        ({"latency_runs": 0}, "validate.latency_runs=0"),
        ({"grid": GridConfig(batch=[1, 0])}, r"validate.grid.batch=\[1, 0\]"),
        ({"grid": GridConfig(sequence=[-16])}, r"validate.grid.sequence=\[-16\]"),
        ({"gates": GatesConfig(tasks={"int9": -1.0})}, "validate.gates.tasks.int9"),
    ],
)
def test_settings_out_of_range(changes: dict[str, Any], words: str) -> None:
    check_validate(ValidateConfig())
    with pytest.raises(ConfigError, match=words):
        check_validate(replace(ValidateConfig(), **changes))


def test_a_plan_takes_what_is_inside_a_profile() -> None:
    engine = Engine(
        path=Path("a.plan"),
        sha256="e" * 64,
        runtime="tensorrt",
        runtime_version="10.13",
        target="sm_89",
        profiles=(
            Profile(min=(1, 1), opt=(16, 32), max=(64, 32)),
            Profile(min=(2, 33), opt=(16, 128), max=(32, 128)),
        ),
        inputs=(),
        outputs=(),
        layer_types={},
        source_sha256="b" * 64,
    )
    inside = [(1, 1), (64, 32), (2, 33), (32, 128)]
    outside = [(65, 32), (1, 33), (33, 128), (16, 129)]
    assert [engine.takes(*shape) for shape in inside + outside] == [True] * 4 + [False] * 4


@pytest.mark.parametrize(
    ("text_s", "texts"), [(0.001, 64), (0.01, 25), (10.0, 16)], ids=["fast", "slow", "very slow"]
)
def test_a_slow_reference_times_less_text(
    text_s: float, texts: int, tiny_source: SourceModel, tiny_tokenizer: Tokenizer
) -> None:
    config = ValidateConfig(budget_s=40.0, timing_sentences=64, latency_runs=30, batch_size=4)
    sentences = [f"sentence number {i}" for i in range(100)]
    timed = choose_timed_text(tiny_source, tiny_tokenizer, sentences, config, text_s)
    assert len(timed.texts) == len(timed.rows) == texts
    assert sum(len(batch.input_ids) for batch in timed.batches) == texts
    assert len(timed.singles) == 30
