"""Hand a night to the history once its cells have ended, and return what got worse."""

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from pipeline import history
from pipeline.files import read_json
from pipeline.history import CellRecord, Finding
from pipeline.nightly.cells.status import Status
from pipeline.nightly.night import Night


def close_night(night: Night, statuses: Sequence[Status], database: Path) -> tuple[Finding, ...]:
    """Hand the night to the history; what it renders goes to the night's ``history/``.

    Raises:
        PipelineError: the history cannot be read or written.
    """
    moment = datetime.fromisoformat(night.id).isoformat()
    records = [_record(moment, status) for status in statuses]
    directory = night.directory / "history"
    directory.mkdir(exist_ok=True)
    return history.close_night(database, moment, records, directory)


def _record(night: str, status: Status) -> CellRecord:
    report = status.reports.get("report.json")
    return CellRecord(
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
