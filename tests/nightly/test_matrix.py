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


def engines(**more: Any) -> dict[str, Any]:
    hardware = {
        "l4": DeviceConfig(builds_from="cpu", target="sm_89", overrides=["--max-batch=8"]),
        "h100": DeviceConfig(builds_from="cpu", target="sm_90"),
        "cpu": DeviceConfig(artifacts_dir="bundles"),
    }
    return {"hardware": {**hardware, **more}, "devices": [*hardware], "precisions": ["int8"]}


def test_one_publishes_and_a_cell_for_each_gpu_type_builds_from_it() -> None:
    cells = make_cells(config(**engines(), overrides={"*-int8-*": ["validate.budget_s=9"]}))
    assert [cell.name for cell in cells] == [
        "minilm-int8-cpu",
        "minilm-int8-l4",
        "minilm-int8-h100",
    ]
    published, ada, hopper = cells
    assert (published.after, published.gpu_target, published.builds) == (None, None, False)
    assert "validate.budget_s=9" in published.arguments
    assert ada.command == (
        "python -m pipeline.build bundles/minilm/int8 --target sm_89 --wait --max-batch=8"
    )
    assert (hopper.after, hopper.gpu_target) == ("minilm-int8-cpu", "sm_90")
    assert {cell.target for cell in cells} == {"bundles/minilm/int8"}


def test_where_nothing_publishes_tonight_the_bundle_that_is_there_is_built_from() -> None:
    (cell,) = make_cells(config(**engines() | {"devices": ["l4"]}))
    assert (cell.after, cell.target) == (None, "bundles/minilm/int8")


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
        (
            engines(b=DeviceConfig(builds_from="l4")),
            ["hardware.b.builds_from=l4", "a device whose cells publish: cpu"],
        ),
        (
            engines(b=DeviceConfig(builds_from="cpu", target="8.9")),
            ["hardware.b.target=8.9", "sm_89"],
        ),
        (
            engines(h100=DeviceConfig(builds_from="cpu", target="sm_89")),
            ["two cells would build the same engine"],
        ),
        (engines(b=DeviceConfig(target="sm_89")), ["only for a device with builds_from"]),
        (
            engines(b=DeviceConfig(builds_from="cpu", artifacts_dir="x")),
            ["hardware.b.artifacts_dir: its bundles are those of cpu"],
        ),
        (engines() | {"overrides": {"*-l4": ["a=1"]}}, ["'*-l4' fits no cell"]),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else None,
)
def test_error_names_the_key(changes: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        make_cells(config(**changes))
    for word in words:
        assert word in str(caught.value)
    assert "\n" not in str(caught.value)
