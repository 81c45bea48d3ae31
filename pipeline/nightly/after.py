"""What follows the cells: the history takes the night, and says what got worse."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from importlib import import_module
from pathlib import Path
from typing import Any

from pipeline.nightly.files import read_json
from pipeline.nightly.night import Night
from pipeline.nightly.status import Status

log = logging.getLogger(__name__)

_HISTORY = "pipeline.history"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What the history says of a cell; one that ``fails`` makes the night's exit code 2."""

    cell: str
    metric: str
    kind: str
    text: str
    fails: bool


def close_night(night: Night, statuses: Sequence[Status], database: Path) -> tuple[Finding, ...]:
    """Hand the night to the history; what it renders goes to the night's ``history/``.

    Raises:
        PipelineError: the history cannot be read or written.
    """
    try:
        history: Any = import_module(_HISTORY)
    except ModuleNotFoundError as error:
        if error.name != _HISTORY:
            raise
        log.info("no history is kept: %s is not installed", _HISTORY)
        return ()
    moment = datetime.fromisoformat(night.id).isoformat()
    records = [_record(history.CellRecord, moment, status) for status in statuses]
    directory = night.directory / "history"
    directory.mkdir(exist_ok=True)
    return tuple(
        Finding(
            cell=found.cell,
            metric=found.metric,
            kind=str(found.kind),
            text=found.text,
            fails=found.fails,
        )
        for found in history.close_night(database, moment, records, directory)
    )


def _record(make: Any, night: str, status: Status) -> Any:
    report = status.reports.get("report.json")
    return make(
        night=night,
        cell=status.cell,
        model=status.model,
        precision=status.precision,
        device=status.device,
        state=str(status.state),
        exit_code=status.exit_code,
        stage=status.stage,
        message=status.message,
        seconds=status.seconds,
        command=status.command,
        bundle=None if status.bundle is None else Path(status.bundle),
        previous=None if status.previous is None else Path(status.previous),
        report=None if report is None else read_json(Path(report)),
    )
