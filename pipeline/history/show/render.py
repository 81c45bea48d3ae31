"""Write the trend for people and machines: ``trend.html``, ``trend.md``, ``trend.junit.xml``."""

from collections.abc import Sequence
from pathlib import Path

from pipeline.errors import HistoryError
from pipeline.files import write_text
from pipeline.history.keep.records import Entry
from pipeline.history.show.summary import render_junit, render_markdown
from pipeline.history.show.trend import make_trend


def render(entries: Sequence[Entry], directory: Path, *, database: Path) -> None:
    """Write the three files into ``directory``, each by one rename.

    Raises:
        HistoryError: they cannot be written, or there is no night to show.
    """
    from pipeline.history.show.trend_page import render_html

    if not entries:
        raise HistoryError(f"{database}: no night to show; close or import one first")
    trend = make_trend(entries)
    try:
        directory.mkdir(parents=True, exist_ok=True)
        write_text(directory / "trend.html", render_html(trend, directory, database=database))
        write_text(directory / "trend.md", render_markdown(trend))
        write_text(directory / "trend.junit.xml", render_junit(trend))
    except OSError as error:
        raise HistoryError(
            f"cannot write the trend into {directory}: {error.strerror or error}; render it "
            f"elsewhere: python -m pipeline.history --database {database} render DIRECTORY"
        ) from error
