"""Keep each night's own ``report.html`` beside the database: what the trend page links to."""

import logging
from pathlib import Path
from urllib.parse import quote

from pipeline.files import link_or_copy
from pipeline.history.keep.journal import night_name, nights_directory
from pipeline.history.keep.records import utc
from pipeline.history.keep.status import State, Status

log = logging.getLogger(__name__)


def keep_page(database: Path, night: str, status: Status) -> str | None:
    """Keep a cell's page and return its path relative to the database; None where there is none.

    A published bundle's page gets a second name: the bundle is replaced on a later night. That of a
    rejected run is drawn from its report.
    """
    folder = nights_directory(database) / night_name(utc(night))
    page = folder / f"{quote(status.cell, safe='')}.html"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        page.unlink(missing_ok=True)
        source = None if status.bundle is None else Path(status.bundle) / "report.html"
        report = status.report()
        if status.state is State.published and source is not None and source.is_file():
            link_or_copy(source, page)
        elif report is not None and "reference" in report:  # an engine cell has no page of its own
            from pipeline.report.html import render_html

            page.write_text(render_html(report), "utf-8")
        else:
            return None
    except Exception as error:  # another version's report, a full disk: the page is not the night
        log.warning("%s: its page was not kept: %s", status.cell, error)
        return None
    return page.relative_to(database.parent).as_posix()
