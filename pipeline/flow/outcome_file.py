"""Tell a parent process in a file, ``outcome.json``, how far a run has come and how it ended.

Only where ``PIPELINE_OUTCOME`` names the file. It is written anew when a stage starts, so that it
says in which one a process died. Schema 1: ``exit``, ``stage``, ``gates``, ``bundle``, ``message``,
``engines``.
"""

import contextlib
import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from pipeline.files import read_json, write_json

log = logging.getLogger(__name__)

VARIABLE = "PIPELINE_OUTCOME"
SCHEMA = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOutcome:
    """What a run came to: ``exit`` is its exit code, None while it runs or where it was killed.

    ``stage`` is the one that started last, ``gates`` are those that failed, ``bundle`` is what was
    published, ``engines`` those that were added to it, ``message`` the words of an error.
    """

    exit: int | None = None
    stage: str | None = None
    gates: tuple[str, ...] = ()
    bundle: str | None = None
    message: str | None = None
    engines: tuple[str, ...] = ()


def read_outcome(path: Path) -> RunOutcome:
    """Return what a run told; nothing of all where it told nothing, or it is no outcome."""
    data: dict[str, Any] = read_json(path) or {}
    if data.pop("schema", None) != SCHEMA:
        return RunOutcome()
    with contextlib.suppress(TypeError, KeyError):
        lists = {key: tuple(map(str, data.get(key, ()))) for key in ("gates", "engines")}
        return RunOutcome(**data | lists)
    return RunOutcome()


def note_stage(name: str) -> None:
    """Tell that a stage starts."""
    _write(lambda told: replace(told, stage=name))


def note_end(
    code: int,
    *,
    message: str | None = None,
    gates: Sequence[str] = (),
    bundle: Path | None = None,
    engines: Sequence[str] = (),
) -> None:
    """Tell how the run ends: its exit code, and what that comes from."""
    where = None if bundle is None else str(bundle)

    def change(told: RunOutcome) -> RunOutcome:
        ended = replace(told, exit=code, message=message, bundle=where)
        return replace(ended, gates=tuple(gates), engines=tuple(engines))

    _write(change)


def _write(change: Callable[[RunOutcome], RunOutcome]) -> None:
    named = os.environ.get(VARIABLE)
    if not named:
        return
    path = Path(named)
    try:
        write_json(path, {"schema": SCHEMA, **asdict(change(read_outcome(path)))})
    except OSError as error:  # the run is worth more than what is told of it
        log.warning("cannot write %s: %s", path, error.strerror or error)
