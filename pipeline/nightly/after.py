"""Hand a night to the history once its cells have ended, and return what got worse."""

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from pipeline.history import close
from pipeline.history.keep.records import Finding
from pipeline.history.keep.status import Status
from pipeline.nightly.night import Night


def close_night(night: Night, statuses: Sequence[Status], database: Path) -> tuple[Finding, ...]:
    """Hand the night to the history; what it renders goes to the night's ``history/``.

    Raises:
        PipelineError: the history cannot be read or written.
    """
    moment = datetime.fromisoformat(night.id).isoformat()
    directory = night.directory / "history"
    directory.mkdir(exist_ok=True)
    return close.close_night(database, moment, statuses, directory)
