"""Build a matrix of models, precisions and devices: ``python -m pipeline.nightly``.

Exit codes: 0 every cell published; 2 nothing worse than a failed gate; 128 + a signal that stopped
the night; 1 anything else.
"""

import logging
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from pipeline.errors import PipelineError
from pipeline.files import write_json, write_text
from pipeline.flow.compose import run_composed
from pipeline.history.keep.status import State
from pipeline.nightly.after import close_night
from pipeline.nightly.cells.matrix import make_cells
from pipeline.nightly.config import Launcher, NightlyConfig, register_schema
from pipeline.nightly.launchers.kubernetes import run_kubernetes
from pipeline.nightly.launchers.local import run_local
from pipeline.nightly.launchers.slurm import run_slurm
from pipeline.nightly.night import Night, open_night
from pipeline.nightly.show.cases import to_junit
from pipeline.nightly.show.screen import screen
from pipeline.nightly.show.summary import Summary, read_statuses, to_json, to_markdown, to_text
from pipeline.nightly.stop import Stop

log = logging.getLogger(__name__)

_RUN: dict[Launcher, Callable[..., dict[str, str] | None]] = {
    Launcher.local: run_local,
    Launcher.slurm: run_slurm,
    Launcher.kubernetes: run_kubernetes,
}


def main() -> int:
    """Run the night that the command line asks for and return the exit code."""
    register_schema()
    return run_composed("nightly", NightlyConfig, run_night)


def run_night(config: NightlyConfig) -> int:
    """Run what is left of a night, close it, and print its summary; return the exit code.

    Raises:
        PipelineError: it cannot start. Later nothing keeps the summary from coming out.
    """
    cwd = Path(config.kubernetes.mount) if config.launcher is Launcher.kubernetes else Path.cwd()
    arguments = sys.argv[1:]
    cells = make_cells(config)
    with (
        Stop() as stopping,
        open_night(Path(config.output), config.night, cells, arguments=arguments, cwd=cwd) as night,
    ):
        problems: list[str] = []
        reasons: dict[str, str] | None = {}
        pending = night.pending()
        try:
            with screen(night) as shown:
                if pending:
                    run = _RUN[config.launcher]
                    reasons = run(night, pending, config, stopping, shown.refresh)
        except (PipelineError, OSError) as error:
            problems.append(str(error))
        if reasons is None:  # the cells are for someone else to start
            return 0
        summary = Summary(
            night=night.id,
            directory=night.directory,
            statuses=read_statuses(night, reasons, stopped=stopping.signal is not None),
            problems=tuple(problems),
        )
        summary = _write(summary)
        if stopping.signal is None or any(s.state is State.stopped for s in summary.statuses):
            summary = _write(_with_history(summary, night, config))
        print(to_text(summary))
        return summary.exit_code if stopping.signal is None else 128 + stopping.signal


def _with_history(summary: Summary, night: Night, config: NightlyConfig) -> Summary:
    database = Path(config.history or Path(config.output) / "history.sqlite")
    try:
        findings = close_night(night, summary.statuses, database)
    except Exception as error:  # whatever it is, the night's own summary has to come out
        log.debug("history", exc_info=True)
        problem = f"history: {type(error).__name__}: {' '.join(str(error).split())[:300]}"
        return replace(summary, problems=(*summary.problems, problem))
    return replace(summary, findings=findings)


def _write(summary: Summary) -> Summary:
    """Write the summary's files; what cannot be written is a problem of the night."""
    directory = summary.directory
    try:
        write_json(directory / "summary.json", to_json(summary))
        write_text(directory / "summary.md", to_markdown(summary))
        write_text(directory / "junit.xml", to_junit(summary))
    except OSError as error:
        problem = f"cannot write the summary: {error.strerror or error}; make room in {directory}"
        return replace(summary, problems=(*summary.problems, problem))
    return summary


if __name__ == "__main__":
    sys.exit(main())
