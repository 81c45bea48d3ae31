"""Push a bundle to the Hugging Face hub or an OCI registry, or pull one.

    python -m pipeline.share push artifacts/minilm/int8 oci://ghcr.io/me/minilm:int8
    python -m pipeline.share pull hf://me/minilm-int8 artifacts/minilm/int8

Exit codes: 0 done; 1 an error, one line on stderr; 130 or 143 interrupted.
"""

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from pipeline.bundle.sharing.reference import parse_reference
from pipeline.bundle.sharing.transfer import ALL, HERE, NONE, pull, push
from pipeline.ending import run_to_end
from pipeline.errors import PipelineError
from pipeline.printable import PrintableFormatter, print_error

_REFERENCE = "hf://OWNER/NAME[@REVISION] or oci://REGISTRY/REPOSITORY[:TAG]"


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what the command line says and return the exit code."""
    try:
        options = _parser().parse_args(arguments)
    except SystemExit as stop:  # 2 would say that a gate failed
        return 1 if stop.code else 0
    handler = logging.StreamHandler()
    handler.setFormatter(PrintableFormatter())
    logging.basicConfig(level=logging.WARNING, handlers=[handler])
    logging.getLogger("pipeline").setLevel(logging.INFO)
    return run_to_end(lambda: _share(options), left="nothing was put in place")


def _share(options: argparse.Namespace) -> int:
    try:
        reference = parse_reference(options.reference)
        if options.action == "push":
            done = push(
                options.bundle, reference, private=not options.public, engines=options.engines
            )
            print(f"pushed {done}")
        else:
            done = pull(
                reference,
                options.bundle,
                manifest_sha256=options.manifest_sha256,
                public_key=options.public_key,
                engine_key=options.engine_key,
                engines=options.engines,
            )
            print(f"pulled {done} to {options.bundle}")
    except PipelineError as error:
        print_error(error)
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m pipeline.share", description="Push or pull a bundle; both verify it."
    )
    actions = parser.add_subparsers(dest="action", required=True)
    pushing = actions.add_parser("push", help="push a bundle that verifies")
    pushing.add_argument("bundle", type=Path, metavar="DIR")
    pushing.add_argument("reference", metavar="REF", help=_REFERENCE)
    pushing.add_argument(
        "--public",
        action="store_true",
        help="make a hub repository that is not there yet public (default: private)",
    )
    pushing.add_argument(
        "--engines",
        type=_engines,
        default=ALL,
        metavar="WHICH",
        help="all (default), none, or names of engines, with commas between",
    )
    pulling = actions.add_parser("pull", help="pull a bundle; it appears once it verifies")
    pulling.add_argument("reference", metavar="REF", help=_REFERENCE)
    pulling.add_argument("bundle", type=Path, metavar="DIR")
    pulling.add_argument("--manifest-sha256", metavar="SHA256", help="as in pipeline.verify")
    pulling.add_argument("--public-key", type=Path, metavar="FILE", help="as in pipeline.verify")
    pulling.add_argument("--engine-key", type=Path, metavar="FILE", help="as in pipeline.verify")
    pulling.add_argument(
        "--engines",
        type=_engines,
        default=HERE,
        metavar="WHICH",
        help="here (default: what this machine runs), all, none, or names, with commas between",
    )
    return parser


def _engines(text: str) -> str | tuple[str, ...]:
    return text if text in (ALL, HERE, NONE) else tuple(text.split(","))


if __name__ == "__main__":
    sys.exit(main())
