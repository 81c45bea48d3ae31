"""Run the pipeline for one model at one precision: ``python -m pipeline model=… precision=…``.

With ``precision=auto`` it is tried at several, and the best of them published.

Exit codes: 0 published; 1 an error, one line on stderr; 2 a quality gate failed.
"""

import sys
from collections.abc import Sequence
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
    return run_command(run_and_share, choose_and_share)


def run_and_share(config: PipelineConfig) -> int:
    """Run the pipeline, print what came of it, push it where the config says; return the exit code.

    Raises:
        PipelineError: a stage failed, or what was published could not be pushed.
    """
    from pipeline.flow.run import run

    return _end(run(config), config.publish)


def choose_and_share(configs: Sequence[PipelineConfig]) -> int:
    """Run the pipeline at each precision, publish and push the best; return the exit code.

    Raises:
        PipelineError: no precision could be tried, or what was published not be pushed.
    """
    from pipeline.flow.choice.auto import run_auto

    return _end(run_auto(configs), configs[0].publish)


def _end(outcome: "Outcome", config: PublishConfig) -> int:
    """Print what came of a run, push what it published, and return the exit code."""
    _print_outcome(outcome)
    if not outcome.published:
        note_end(GATE_FAILED, gates=outcome.report.failed_gates)
        return GATE_FAILED
    _share(outcome.path, config)
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
