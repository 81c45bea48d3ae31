"""Make the cells of a night from the config's matrix."""

import difflib
import itertools
import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from pipeline.config import CONF_DIR
from pipeline.errors import ConfigError
from pipeline.nightly.config import DeviceConfig, NightlyConfig

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_TARGET = re.compile(r"sm_\d{2,3}")
_OF_THE_MATRIX = {
    "model": "models",
    "model.name": "custom_models",
    "precision": "precisions",
    "precision.name": "precisions",
    "artifacts_dir": "artifacts_dir",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One command of the night: ``python -m`` with ``module`` and ``arguments``.

    ``target`` is the bundle that it replaces when it publishes, or adds an engine to; ``after`` the
    cell that publishes that bundle first, and ``gpu_target`` (``sm_89``) what the engine is for.
    Times are in seconds.
    """

    name: str
    model: str
    precision: str
    device: str
    arguments: tuple[str, ...]
    target: str
    timeout_s: float
    grace_s: float
    module: str = "pipeline"
    after: str | None = None
    gpu_target: str | None = None

    @property
    def builds(self) -> bool:
        """Whether it builds an engine of a bundle, and publishes none."""
        return self.module != "pipeline"

    @property
    def command(self) -> str:
        """The command as a shell takes it, without the slot's ``CUDA_VISIBLE_DEVICES``."""
        return shlex.join(["python", "-m", self.module, *self.arguments])


def cell_from(data: Mapping[str, Any]) -> Cell:
    """Return the cell of which ``data`` was made; raises TypeError or KeyError."""
    return Cell(**{**data, "arguments": tuple(data["arguments"])})


def make_cells(config: NightlyConfig) -> tuple[Cell, ...]:
    """Return the matrix's cells, all precisions of a model beside each other.

    Cells that build engines come after those that publish.

    Raises:
        ConfigError: an unknown model, precision or device, an override of what the matrix sets, a
            pattern that fits no cell, two devices that publish to one place, or nothing left.
    """
    _check(config)
    devices = dict.fromkeys(config.devices)
    cells = [
        _cell(config, model, precision, device)
        for device, model, precision in itertools.product(
            sorted(devices, key=lambda device: config.hardware[device].builds_from is not None),
            dict.fromkeys(config.models),
            dict.fromkeys(config.precisions),
        )
    ]
    for key in ("exclude", "overrides", "timeouts"):
        names = [cell.name for cell in cells if key != "overrides" or not cell.builds]
        for pattern in getattr(config, key):
            if not any(fnmatchcase(name, pattern) for name in names):
                raise ConfigError(f"{key}: {pattern!r} fits no cell; there are {', '.join(names)}")
    left = [c for c in cells if not any(fnmatchcase(c.name, p) for p in config.exclude)]
    if not left:
        raise ConfigError("no cell is left; set models, precisions, devices and exclude")
    _check_places(left)
    there = {cell.name for cell in left}
    return tuple(cell if cell.after in there else replace(cell, after=None) for cell in left)


def _check_places(cells: Sequence[Cell]) -> None:
    published = [cell.target for cell in cells if not cell.builds]
    names = {cell.name for cell in cells}
    if len(names) < len(cells) or len(set(published)) < len(published):
        raise ConfigError(
            "two cells would publish the same bundle; name models differently, or set "
            "hardware.<device>.artifacts_dir where a matrix has more than one device"
        )
    built = [(cell.target, cell.gpu_target) for cell in cells if cell.builds and cell.gpu_target]
    if len(set(built)) < len(built):
        raise ConfigError(
            "two cells would build the same engine; one hardware.<device>.target has one device"
        )


def _cell(config: NightlyConfig, model: str, precision: str, device: str) -> Cell:
    name = f"{model}-{precision}-{device}"
    hardware = config.hardware[device]
    custom = config.custom_models.get(model)
    chosen = [f"model={model}"] if custom is None else ["model=custom", f"model.name={model}"]
    timeouts = [s for pattern, s in config.timeouts.items() if fnmatchcase(name, pattern)]
    timeout_s = timeouts[-1] if timeouts else config.timeout_s
    if hardware.builds_from is not None:
        return _build_cell(config, model, precision, device, timeout_s)
    artifacts = hardware.artifacts_dir or config.artifacts_dir
    arguments = [
        *chosen,
        f"precision={precision}",
        *(custom or []),
        *hardware.overrides,
        *itertools.chain.from_iterable(
            extra for pattern, extra in config.overrides.items() if fnmatchcase(name, pattern)
        ),
    ]
    _check_overrides(name, arguments[len(chosen) + 1 :])
    return Cell(
        name=name,
        model=model,
        precision=precision,
        device=device,
        arguments=(*arguments, f"artifacts_dir={artifacts}"),
        target=str(Path(artifacts) / model / precision),
        timeout_s=timeout_s,
        grace_s=config.grace_s,
    )


def _build_cell(
    config: NightlyConfig, model: str, precision: str, device: str, timeout_s: float
) -> Cell:
    hardware = config.hardware[device]
    source = config.hardware[str(hardware.builds_from)]
    bundle = str(Path(source.artifacts_dir or config.artifacts_dir) / model / precision)
    target = [] if hardware.target is None else ["--target", hardware.target]
    return Cell(
        name=f"{model}-{precision}-{device}",
        model=model,
        precision=precision,
        device=device,
        arguments=(bundle, *target, "--wait", *hardware.overrides),
        target=bundle,
        timeout_s=timeout_s,
        grace_s=config.grace_s,
        module="pipeline.build",
        after=f"{model}-{precision}-{hardware.builds_from}",
        gpu_target=hardware.target,
    )


def _check(config: NightlyConfig) -> None:
    models = [*_choices("model", but="custom"), *config.custom_models]
    for key, values, choices in (
        ("models", config.models, models),
        ("precisions", config.precisions, _choices("precision", but="auto")),
        ("devices", config.devices, list(config.hardware)),
    ):
        for value in values:
            _check_choice(key, value, choices)
    for key, names in (("custom_models", config.custom_models), ("hardware", config.hardware)):
        for name in names:
            if not _NAME.fullmatch(name):
                raise ConfigError(f"{key}: {name!r}: expected letters, digits, '.', '-' and '_'")
    for name, device in config.hardware.items():
        if not device.slots:
            raise ConfigError(f"hardware.{name}.slots is empty; list a CUDA_VISIBLE_DEVICES each")
        _check_builds(name, device, config.hardware)
    if min(config.timeout_s, *config.timeouts.values(), 1) <= 0 or config.grace_s < 0:
        raise ConfigError("timeout_s and timeouts must be more than 0, grace_s not less than 0")


def _check_builds(name: str, device: DeviceConfig, hardware: Mapping[str, DeviceConfig]) -> None:
    publishing = [other for other, its in hardware.items() if its.builds_from is None]
    key = f"hardware.{name}"
    if device.builds_from is not None and device.builds_from not in publishing:
        raise ConfigError(
            f"{key}.builds_from={device.builds_from}: expected a device whose cells publish: "
            f"{', '.join(publishing)}"
        )
    if device.builds_from is not None and device.artifacts_dir is not None:
        raise ConfigError(f"{key}.artifacts_dir: its bundles are those of {device.builds_from}")
    if device.target is not None and device.builds_from is None:
        raise ConfigError(f"{key}.target: only for a device with builds_from")
    if device.target is not None and not _TARGET.fullmatch(device.target):
        raise ConfigError(f"{key}.target={device.target}: expected a GPU type such as sm_89")


def _check_choice(key: str, value: str, choices: Sequence[str]) -> None:
    if value in choices:
        return
    close = difflib.get_close_matches(value, choices, n=1)
    meant = f"did you mean {close[0]}? " if close else ""
    hint = "; add it to custom_models" if key == "models" else ""
    raise ConfigError(
        f"{key}: {value}: no such choice; {meant}choose from {', '.join(choices)}{hint}"
    )


def _check_overrides(cell: str, overrides: Iterable[str]) -> None:
    for override in overrides:
        key = override.partition("=")[0].lstrip("+~")
        if key in _OF_THE_MATRIX:
            raise ConfigError(
                f"{cell}: {override}: the matrix sets {key}; set {_OF_THE_MATRIX[key]} instead"
            )


def _choices(group: str, *, but: str = "") -> list[str]:
    return sorted(p.stem for p in (CONF_DIR / group).glob("*.yaml") if p.stem != but)
