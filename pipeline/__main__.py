"""Run the pipeline for one model at one precision: ``python -m pipeline model=… precision=…``.

Exit codes: 0 published; 1 an error, one line on stderr; 2 a quality gate failed.
"""

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.config import PipelineConfig, PublishConfig
from pipeline.errors import ShareError
from pipeline.flow.compose import GATE_FAILED, OK, run_command
from pipeline.flow.outcome_file import note_end

if TYPE_CHECKING:
    from pipeline.contracts import Outcome


def main() -> int:
    """Run the pipeline as the command line says, and return the exit code."""
    return run_command(run_and_share)


def run_and_share(config: PipelineConfig) -> int:
    """Run the pipeline, print what came of it, push it where the config says; return the exit code.

    Raises:
        PipelineError: a stage failed, or what was published could not be pushed.
    """
    from pipeline.flow.run import run

    outcome = run(config)
    _print_outcome(outcome)
    if not outcome.published:
        note_end(GATE_FAILED, gates=outcome.report.failed_gates)
        return GATE_FAILED
    _share(outcome.path, config.publish)
    note_end(OK, bundle=outcome.path.absolute())
    return OK


def _share(bundle: Path, config: PublishConfig) -> None:
    """Push what was published where the config says; the bundle here stays, whatever comes of it.

    Raises:
        ShareError: not pushed; the message says how to push it without another run.
    """
    from pipeline.bundle.sharing.transfer import push, references

    for reference in references(config):
        try:
            print(f"pushed {push(bundle, reference, private=config.hub.private)}")
        except ShareError as error:
            again = f"python -m pipeline.share push {bundle} {reference}"
            raise ShareError(
                f"published here, not pushed: {error}; push it with {again}"
            ) from error


def _print_outcome(outcome: "Outcome") -> None:
    from pipeline.report.text import render_text

    print(render_text(outcome))


if __name__ == "__main__":
    sys.exit(main())
