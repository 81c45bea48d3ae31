"""Compare published bundles: a table on the terminal, and the same with a plot as one HTML page.

Exit codes: 0 compared; 1 an error, one line on stderr.
"""

import argparse
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline.bundle.manifest import find_manifest
from pipeline.ending import run_to_end
from pipeline.errors import BundleError, PipelineError
from pipeline.printable import print_error, printable
from pipeline.report.comparison import Line, compare
from pipeline.report.published import read_report
from pipeline.report.table import COLUMNS

Bundle = tuple[Path, Mapping[str, Any], Mapping[str, Any]]

_PAGE = "compare.html"


def main(arguments: Sequence[str] | None = None) -> int:
    """Compare the bundles that the command line names and return the exit code."""
    parser = _parser()
    try:
        options = parser.parse_args(arguments)
    except SystemExit as stop:  # 2 would say that a gate failed
        return 1 if stop.code else 0
    return run_to_end(lambda: _compare(options), left="nothing was written")


def _compare(options: argparse.Namespace) -> int:
    try:
        bundles = read_bundles(options.bundles)
        lines = compare(bundles)
        page = options.html or _beside([path for path, _, _ in bundles])
        print(render_lines(lines))
        _write(lines, page)
    except PipelineError as error:
        print_error(error)
        return 1
    print(f"\n{page}")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m pipeline.compare",
        description="Compare published bundles by their reports: nothing is run.",
    )
    parser.add_argument(
        "bundles",
        nargs="+",
        type=Path,
        metavar="BUNDLE",
        help="directories that the pipeline published, such as artifacts/minilm/*",
    )
    parser.add_argument(
        "--html",
        type=Path,
        metavar="FILE",
        help=f"where the page goes (default: {_PAGE} in the directory that holds the bundles)",
    )
    return parser


def read_bundles(paths: Sequence[Path]) -> list[Bundle]:
    """Return each bundle's path, report and manifest; what is no bundle is named on stderr.

    Raises:
        BundleError: none of the paths is a bundle.
    """
    found: list[Bundle] = []
    for path in dict.fromkeys(paths):
        if path.name == _PAGE and path.is_file():
            continue  # ours, of the last time: a shell's * finds it too
        try:
            bundle = path, read_report(path), find_manifest(path)
            _require_drawn(bundle)
            found.append(bundle)
        except BundleError as error:
            print(printable(f"skipped {error}"), file=sys.stderr)
    if not found:
        raise BundleError(
            f"no bundle among {', '.join(map(str, paths))}; name directories with a report.json, "
            "such as artifacts/minilm/*"
        )
    return found


def _require_drawn(bundle: Bundle) -> None:
    """Draw a bundle by itself, so that what its report lacks is said of it and not of all.

    Raises:
        BundleError: it cannot be drawn.
    """
    from pipeline.report.html import render_comparison

    try:
        lines = compare([bundle])
        render_lines(lines)
        render_comparison(lines)
    except Exception as error:  # a report may come from anywhere
        raise BundleError(
            f"{bundle[0]}: its report.json is not as this pipeline writes it: "
            f"{type(error).__name__}: {error}"
        ) from error


def _beside(paths: Sequence[Path]) -> Path:
    parents = [path.absolute().parent for path in paths]
    return Path(os.path.relpath(os.path.commonpath(parents))) / _PAGE


def _write(lines: Sequence[Line], page: Path) -> None:
    from pipeline.report.html import render_comparison

    try:
        page.write_text(render_comparison(lines), "utf-8")
    except OSError as error:
        raise BundleError(
            f"cannot write {page}: {error.strerror or error}; name another file with --html"
        ) from error


def render_lines(lines: Sequence[Line]) -> str:
    """Return the comparison as a table of aligned columns, with each line's notes below it."""
    widths = {c: max(len(c), *(len(line.columns[c]) for line in lines)) for c in COLUMNS}
    text = [_aligned({c: c for c in COLUMNS}, widths)]
    for line in lines:
        text.append(_aligned(line.columns, widths))
        text += [f"    {note}" for note in line.notes]
    return "\n".join(map(printable, text))


def _aligned(columns: Mapping[str, str], widths: Mapping[str, int]) -> str:
    return "  ".join(columns[c].ljust(widths[c]) for c in COLUMNS).rstrip()


if __name__ == "__main__":
    sys.exit(main())
