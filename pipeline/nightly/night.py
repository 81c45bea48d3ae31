"""Open a night's directory: its lock, its plan, its cells."""

import contextlib
import json
import logging
import re
import shlex
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from filelock import FileLock, Timeout

from pipeline.errors import ConfigError, NightlyError
from pipeline.files import read_json, write_json
from pipeline.history.keep.status import Status
from pipeline.nightly.cells.built import forget_skipped
from pipeline.nightly.cells.cell import write_cell
from pipeline.nightly.cells.matrix import Cell

log = logging.getLogger(__name__)

_ID = re.compile(r"\d{8}T\d{6}Z")
_PLAN_FILE = "plan.json"

_HYDRA_OPTIONS = ("--config-dir", "-cd", "--config-name", "-cn", "--config-path", "-cp")
"""Those whose value may be the next argument."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Night:
    """A night that this process holds: ``id`` is when it began, in UTC (``20261121T020000Z``)."""

    id: str
    directory: Path
    cells: tuple[Cell, ...]

    def of(self, cell: Cell) -> Path:
        """Return the cell's directory."""
        return self.directory / cell.name

    def pending(self) -> tuple[Cell, ...]:
        """Return the cells without a final status."""
        statuses = ((cell, Status.read(self.of(cell))) for cell in self.cells)
        return tuple(cell for cell, status in statuses if not (status and status.state.is_final))


@contextlib.contextmanager
def open_night(
    output: Path, wanted: str | None, cells: Sequence[Cell], *, arguments: Sequence[str], cwd: Path
) -> Iterator[Night]:
    """Start a night in ``output``, or go on with ``wanted``; hold it until the end.

    Raises:
        ConfigError: ``wanted`` is no night's name, or that night has other cells.
        NightlyError: another process works in ``output``, or it cannot be written.
    """
    if wanted is not None and not _ID.fullmatch(wanted):
        raise ConfigError(f"night={wanted}: expected a night's directory, as 20261121T020000Z")
    output = output.absolute()
    try:
        output.mkdir(parents=True, exist_ok=True)
        lock = FileLock(output / ".lock")
        lock.acquire(timeout=0)
    except Timeout as error:
        raise NightlyError(
            f"another nightly works in {output}; wait for its end, or set output to another place"
        ) from error
    except OSError as error:
        raise _unwritable(output, error) from error
    with lock:
        try:
            night = _prepare(output, wanted, tuple(cells), arguments, cwd)
        except OSError as error:
            raise _unwritable(output, error) from error
        yield night


def _prepare(
    output: Path, wanted: str | None, cells: tuple[Cell, ...], arguments: Sequence[str], cwd: Path
) -> Night:
    name = wanted or _new_id(output)
    night = Night(id=name, directory=output / name, cells=cells)
    plan = read_json(night.directory / _PLAN_FILE)
    planned = json.loads(json.dumps([asdict(cell) for cell in cells]))
    if plan is None:
        night.directory.mkdir(exist_ok=True)
        for cell in cells:
            write_cell(cell, night.of(cell), cwd)
        command = shlex.join(["python", "-m", "pipeline.nightly", *_resuming(arguments, name)])
        write_json(
            night.directory / _PLAN_FILE, {"schema": 1, "command": command, "cells": planned}
        )
        log.info("night %s: %d cells; go on with it by: %s", name, len(cells), command)
    elif plan.get("cells") != planned:
        raise ConfigError(
            f"night {name} was started with other cells; go on with it by: {plan.get('command')}"
        )
    else:
        left = len(night.pending())
        for cell in night.pending():  # what it was skipped for may be mended
            forget_skipped(night.of(cell))
        log.info("night %s: %d of %d cells are left", name, left, len(cells))
    return night


def _resuming(arguments: Sequence[str], name: str) -> list[str]:
    """Return the arguments that go on with a night: Hydra's parser wants overrides side by side."""
    again = [argument for argument in arguments if not argument.startswith("night=")]
    at = len(again)
    for index, argument in enumerate(again):
        is_value = index > 0 and again[index - 1] in _HYDRA_OPTIONS
        if not argument.startswith("-") and not is_value:
            at = index
            break
    return [*again[:at], f"night={name}", *again[at:]]


def _new_id(output: Path) -> str:
    while (output / (name := f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}")).exists():
        time.sleep(0.2)
    return name


def _unwritable(output: Path, error: OSError) -> NightlyError:
    return NightlyError(
        f"cannot write {error.filename or output}: {error.strerror or error}; set output to a "
        "directory that is writable and has room"
    )
