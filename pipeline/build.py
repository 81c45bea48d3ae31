"""Build a TensorRT engine of a published bundle for the GPU of this machine, and add it.

    python -m pipeline.build artifacts/minilm/int8

Needs the builder's runtime, numpy and tokenizers: no PyTorch, weights or calibration text
(docs/build.md). The bundle's own files and signature stay as they are.

Exit codes: 0 added, or another process is at it already and --if-missing was given; 1 an error, one
line on stderr; 2 the engine does not give the vectors that were published, and was not added; 130
or 143 interrupted.
"""

import argparse
import logging
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipeline.bundle.manifest import MANIFEST
from pipeline.bundle.verification import require_intact
from pipeline.config import EngineChoice
from pipeline.ending import run_to_end
from pipeline.errors import PipelineError
from pipeline.flow.building import (
    Added,
    BuildOrder,
    BusyError,
    GateError,
    build_engines,
    write_repository,
)
from pipeline.flow.outcome_file import note_end, note_stage
from pipeline.printable import PrintableFormatter, print_error, printable

_SETTINGS = (
    ("sequence_buckets", "the longest sequence of each profile, such as 32,128,256"),
    ("max_batch", "texts a batch at most"),
    ("opt_batch", "texts a batch that kernels are chosen for"),
    ("workspace_mib", "memory that the builder may use"),
    ("optimization_level", "0 to 5"),
    ("timing_cache", "a directory for TensorRT's timing caches"),
    ("timeout_s", "seconds after which the build is ended"),
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Build for the bundle that the command line names and return the exit code."""
    try:
        options = _parser().parse_args(arguments)
    except SystemExit as stop:  # 2 would say that a gate failed
        return 1 if stop.code else 0
    handler = logging.StreamHandler()
    handler.setFormatter(PrintableFormatter())
    logging.basicConfig(level=logging.WARNING, handlers=[handler])
    logging.getLogger("pipeline").setLevel(logging.INFO)
    return run_to_end(lambda: _build(options), left="nothing was added")


def _build(options: argparse.Namespace) -> int:
    try:
        note_stage("verify")
        parent = require_intact(
            options.bundle, manifest_sha256=options.manifest_sha256, public_key=options.public_key
        )
        if options.triton:
            write_repository(parent)
            return 0
        added = build_engines(parent, _order(options))
        for each in added:
            print(render(each))
        if not added:
            print("nothing added: what can be built here is there")
        note_end(0, bundle=parent.root, engines=[each.engine.root.name for each in added])
    except BusyError as error:
        print(printable(str(error)), file=sys.stderr)
        return _ended(0 if options.if_missing else 1, error)
    except GateError as error:
        print_error(error)
        return _ended(2, error, error.gates)
    except PipelineError as error:
        print_error(error)
        return _ended(1, error)
    return 0


def _ended(code: int, error: PipelineError, gates: Sequence[str] = ()) -> int:
    note_end(code, message=str(error), gates=gates)
    return code


def _order(options: argparse.Namespace) -> BuildOrder:
    names = [*(name for name, _ in _SETTINGS), "version_compatible"]
    given: dict[str, Any] = {name: getattr(options, name) for name in names}
    return BuildOrder(
        runtime=EngineChoice(options.runtime),
        settings={name: value for name, value in given.items() if value is not None},
        into=options.into,
        check=not options.no_check,
        key=options.signing_key,
        if_missing=options.if_missing,
        wait=options.wait,
        target=options.target,
    )


def render(added: Added) -> str:
    """Return what was added as a few lines for a terminal."""
    engine = added.engine
    lines = [
        f"added {engine.root}",
        f"  manifest    {engine.root / MANIFEST}, sha256 {engine.manifest_sha256}",
        f"  plan        {engine.manifest['files']['model.plan']['bytes'] / 2**20:.1f} MiB",
    ]
    checked = added.checked
    if checked is None:
        lines.append(f"  not checked {added.reason}")
    else:
        lines.append(
            f"  checked     mean cosine {checked.mean:.6f}, lowest {checked.min:.6f} over "
            f"{checked.n} texts, {checked.sentences_per_second:,.0f} sentences/s"
        )
    return "\n".join(map(printable, lines))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m pipeline.build",
        description="Build an engine of a bundle for this machine's GPU and add it to engines/.",
    )
    parser.add_argument("bundle", type=Path, metavar="DIR", help="such as artifacts/minilm/int8")
    parser.add_argument(
        "--runtime",
        choices=("auto", "tensorrt", "tensorrt_rtx"),
        default="auto",
        help="auto: whatever is installed and can build here",
    )
    parser.add_argument(
        "--target",
        type=_target,
        metavar="sm_89",
        help="the GPU type to build for: TensorRT-RTX builds for any, TensorRT refuses another one",
    )
    parser.add_argument("--into", type=Path, metavar="DIR", help="instead of the bundle's engines/")
    parser.add_argument("--if-missing", action="store_true", help="leave an engine that is there")
    parser.add_argument("--wait", action="store_true", help="until another build there is done")
    parser.add_argument("--no-check", action="store_true", help="do not run the check texts")
    parser.add_argument("--triton", action="store_true", help="only write triton/ anew")
    parser.add_argument("--signing-key", type=Path, metavar="FILE", help="sign the engine with it")
    parser.add_argument("--manifest-sha256", metavar="SHA256", help="as in pipeline.verify")
    parser.add_argument("--public-key", type=Path, metavar="FILE", help="as in pipeline.verify")
    parser.add_argument(
        "--version-compatible",
        action="store_const",
        const=True,
        help="TensorRT only: a plan that its lean runtime loads, of this version and later ones",
    )
    settings = parser.add_argument_group("engine settings", "in place of the bundle's own")
    for name, words in _SETTINGS:
        kind: Any = {"sequence_buckets": _buckets, "timing_cache": str}.get(name, int)
        settings.add_argument(f"--{name.replace('_', '-')}", type=kind, help=words)
    return parser


def _target(text: str) -> str:
    if not re.fullmatch(r"sm_\d{2,3}", text):
        raise argparse.ArgumentTypeError(f"{text!r}: expected a compute capability such as sm_89")
    return text


def _buckets(text: str) -> list[int]:
    return [int(part) for part in text.split(",")]


if __name__ == "__main__":
    sys.exit(main())
