"""The matrix: which cells there are, and what each runs."""

from typing import Any

import pytest

from pipeline.errors import ConfigError
from pipeline.nightly.cells.matrix import make_cells
from pipeline.nightly.config import DeviceConfig, NightlyConfig


def config(**changes: Any) -> NightlyConfig:
    hardware = {"cpu": DeviceConfig(), "gpu": DeviceConfig(artifacts_dir="elsewhere")}
    return NightlyConfig(**{"hardware": hardware, **changes})


def test_every_model_at_every_precision_on_every_device() -> None:
    cells = make_cells(
        config(models=["minilm", "mpnet"], precisions=["fp32", "int8"], devices=["cpu", "gpu"])
    )
    assert [cell.name for cell in cells[:4]] == [
        "minilm-fp32-cpu",
        "minilm-int8-cpu",
        "mpnet-fp32-cpu",
        "mpnet-int8-cpu",
    ]
    assert len(cells) == 8
    assert cells[1].command == (
        "python -m pipeline model=minilm precision=int8 artifacts_dir=artifacts"
    )
    assert cells[1].target == "artifacts/minilm/int8"
    assert cells[5].target == "elsewhere/minilm/int8"


def test_exclude_overrides_and_times_by_pattern() -> None:
    cells = make_cells(
        config(
            models=["minilm", "mine"],
            custom_models={"mine": ["model.directory=/models/my model"]},
            exclude=["mine-fp16-*"],
            overrides={"*": ["validate.budget_s=9"], "mine-int8-cpu": ["optimize=false"]},
            timeouts={"*-int8-*": 10, "mine-*": 20},
            timeout_s=5,
        )
    )
    assert [cell.name for cell in cells] == [
        "minilm-fp32-cpu",
        "minilm-fp16-cpu",
        "minilm-int8-cpu",
        "mine-fp32-cpu",
        "mine-int8-cpu",
    ]
    assert [cell.timeout_s for cell in cells] == [5, 5, 10, 20, 20]
    assert cells[-1].command == (
        "python -m pipeline model=custom model.name=mine precision=int8 "
        "'model.directory=/models/my model' validate.budget_s=9 optimize=false "
        "artifacts_dir=artifacts"
    )


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"models": ["minlm"]}, ["models: minlm", "did you mean minilm?", "custom_models"]),
        ({"models": ["custom"]}, ["models: custom", "add it to custom_models"]),
        ({"precisions": ["int3"]}, ["precisions: int3", "did you mean int8?"]),
        ({"devices": ["tpu"]}, ["devices: tpu", "choose from cpu, gpu"]),
        ({"exclude": ["*-bf16-*"]}, ["exclude: '*-bf16-*' fits no cell", "minilm-fp32-cpu"]),
        ({"overrides": {"x": ["a=1"]}}, ["overrides: 'x' fits no cell"]),
        ({"overrides": {"*": ["model.name=x"]}}, ["model.name=x", "set custom_models instead"]),
        ({"overrides": {"*": ["artifacts_dir=x"]}}, ["the matrix sets artifacts_dir"]),
        ({"exclude": ["*"]}, ["no cell is left"]),
        ({"models": []}, ["no cell is left"]),
        ({"timeout_s": 0}, ["timeout_s"]),
        ({"timeouts": {"*-int8-*": -1}}, ["timeouts must be more than 0"]),
        ({"custom_models": {"../up": []}}, ["custom_models: '../up'", "expected letters"]),
        ({"hardware": {"cpu": DeviceConfig(slots=[])}}, ["hardware.cpu.slots is empty"]),
        (
            {"hardware": {"cpu": DeviceConfig(), "x": DeviceConfig()}, "devices": ["cpu", "x"]},
            ["same bundle", "hardware.<device>.artifacts_dir"],
        ),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else None,
)
def test_error_names_the_key(changes: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        make_cells(config(**changes))
    for word in words:
        assert word in str(caught.value)
    assert "\n" not in str(caught.value)
