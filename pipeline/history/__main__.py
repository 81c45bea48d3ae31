"""Read and mend the history of nights: ``python -m pipeline.history --database FILE COMMAND``.

Exit codes: 0 done; 1 an error, one line on stderr.
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from pipeline.ending import run_to_end
from pipeline.errors import HistoryError, PipelineError
from pipeline.history.judge.series import is_open
from pipeline.history.keep.anchors import drop_anchor
from pipeline.history.keep.database import open_database, read_entries, write_entries
from pipeline.history.keep.journal import read_lines, to_line, write_lines
from pipeline.history.keep.records import Entry
from pipeline.history.show.summary import render_markdown
from pipeline.history.show.trend import make_trend
from pipeline.printable import print_error


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what the command line asks and return the exit code."""
    parser = _parser()
    try:
        options = parser.parse_args(arguments)
    except SystemExit as stop:  # 2 would say that a gate failed
        return 1 if stop.code else 0
    return run_to_end(lambda: _run(options), left="nothing was changed")


def _run(options: argparse.Namespace) -> int:
    try:
        print(_do(options))
    except PipelineError as error:
        print_error(error)
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m pipeline.history",
        description="Read and mend the history of nights that python -m pipeline.nightly writes.",
    )
    parser.add_argument("--database", type=Path, required=True, metavar="FILE")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("show", help="the last night, as in trend.md")
    render = commands.add_parser("render", help="write trend.html, trend.md and trend.junit.xml")
    render.add_argument("directory", type=Path)
    export = commands.add_parser("export", help="all nights as JSON lines")
    export.add_argument("file", type=Path, nargs="?", help="default: standard output")
    read = commands.add_parser("import", help="take in JSON lines: all of them or none")
    read.add_argument("files", type=Path, nargs="+")
    accept = commands.add_parser(
        "accept",
        help="take a cell's present speed as its level: its regressions fail no more nights",
    )
    accept.add_argument("cell")
    mlflow = commands.add_parser(
        "export-mlflow", help="a run for each cell and night (extra: mlflow)"
    )
    mlflow.add_argument("--tracking-uri", required=True, metavar="URI")
    mlflow.add_argument("--experiment", default="nightly", metavar="NAME")
    return parser


def _do(options: argparse.Namespace) -> str:
    database: Path = options.database
    if options.command == "import":
        return _import(database, options.files)
    if options.command == "accept":
        return _accept(database, options.cell)
    with open_database(database) as connection:
        entries = read_entries(connection)
    if options.command == "export":
        return _export(entries, options.file)
    if not entries:
        raise HistoryError(f"{database}: no night in it; close or import one first")
    if options.command == "show":
        return render_markdown(make_trend(entries)).rstrip()
    if options.command == "export-mlflow":
        from pipeline.history.show.tracking import export_runs

        added = export_runs(entries, uri=options.tracking_uri, experiment=options.experiment)
        return f"{added} runs added, {len(entries) - added} were there"
    from pipeline.history.show.render import render

    render(entries, options.directory, database=database)
    return str(options.directory / "trend.html")


def _export(entries: Sequence[Entry], file: Path | None) -> str:
    if file is None:
        return "\n".join(map(to_line, entries))
    try:
        write_lines(file, entries)
    except OSError as error:
        raise HistoryError(f"cannot write {file}: {error.strerror or error}") from error
    return f"{len(entries)} records in {file}"


def _import(database: Path, files: Sequence[Path]) -> str:
    entries = [entry for file in files for entry in read_lines(file)]
    with open_database(database, create=True) as connection:
        write_entries(connection, entries)
    return f"{len(entries)} records taken in"


def _accept(database: Path, cell: str) -> str:
    """Accept the cell's open regressions, and let the next published night be its anchor.

    Raises:
        HistoryError: no such cell, or it has none.
    """
    now = datetime.now(UTC).isoformat(timespec="seconds")
    with open_database(database, write=True) as connection:
        everything = read_entries(connection)
        own = [entry for entry in everything if entry.cell == cell]
        if not own:
            cells = ", ".join(sorted({entry.cell for entry in everything})) or "none"
            raise HistoryError(f"cell {cell}: not in {database}; it has {cells}")
        changed = [
            replace(
                entry,
                findings=tuple(
                    replace(f, accepted=now) if is_open(f) else f for f in entry.findings
                ),
            )
            for entry in own
            if any(map(is_open, entry.findings))
        ]
        if not changed:
            raise HistoryError(f"cell {cell}: no regression to accept")
        write_entries(connection, changed)
    drop_anchor(database, cell)
    return f"{cell}: its level begins with {changed[0].night}"


if __name__ == "__main__":
    sys.exit(main())
