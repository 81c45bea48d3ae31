"""The command: measure what is missing, write the table, or print that of another model."""

import argparse
import logging
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.int8_quality.measure import MINILM, ROOT, Bench
from benchmarks.int8_quality.rows import Row, all_rows
from benchmarks.int8_quality.table import render, write_between_markers
from benchmarks.int8_quality.texts import DOCUMENTS, load_texts
from pipeline.config import ModelConfig

log = logging.getLogger("benchmarks.int8_quality")

_DOC = ROOT / "docs" / "int8_quality.md"


def main() -> None:
    """Run the benchmark as the command line says."""
    arguments = _parse()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    texts = load_texts(
        arguments.stsb,
        arguments.nfcorpus,
        quick=arguments.quick,
        documents=arguments.documents,
    )
    model = _model(arguments.model)
    bench = Bench(texts, model, arguments.cache.resolve())
    rows = [row for row in all_rows() if model is MINILM or row.script != "packaged"]
    for row in rows:
        if _is_wanted(row, bench.result(row), arguments):
            _measure(bench, row)
    results = [(row, result) for row in rows if (result := bench.result(row)) is not None]
    table = render(results, texts, bench.reference_scores())
    doc = arguments.doc or (_DOC if model is MINILM else None)
    if doc is None:
        print(table)
        return
    write_between_markers(doc, model.name, table)
    log.info("wrote %s", doc)


def _model(directory: Path | None) -> ModelConfig:
    """Return all-MiniLM-L6-v2, or the model of a directory by the directory's name."""
    if directory is None:
        return MINILM
    directory = directory.resolve()
    return ModelConfig(name=directory.name, directory=str(directory))


def _is_wanted(row: Row, known: Mapping[str, Any] | None, arguments: argparse.Namespace) -> bool:
    """Whether a row is to be measured now: missing, incomplete, failed last time, or asked for."""
    if arguments.only and row.name not in arguments.only:
        return False
    if known is None or "failed" in known or row.name in arguments.redo:
        return True
    return known["metrics"]["ndcg_at_10"] is None and not arguments.quick


def _measure(bench: Bench, row: Row) -> None:
    log.info("%s …", row.name)
    start = time.perf_counter()
    result = bench.measure(row)
    state = f"failed: {result['failed']}" if "failed" in result else "done"
    log.info("%s %s in %.0f s", row.name, state, time.perf_counter() - start)


def _parse() -> argparse.Namespace:
    names = [row.name for row in all_rows()]
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.int8_quality",
        description="Compare int8 quantizers on one model and write a table.",
        epilog=f"rows: {', '.join(names)}",
    )
    parser.add_argument("--stsb", type=Path, required=True, help="directory with test.csv")
    parser.add_argument("--nfcorpus", type=Path, required=True, help="directory in BEIR layout")
    parser.add_argument(
        "--model", type=Path, metavar="DIR", help="a Sentence Transformer (all-MiniLM-L6-v2)"
    )
    parser.add_argument(
        "--cache",
        type=Path,
        default=Path(__file__).parent / ".cache",
        help="virtual environments, graphs, results (default: .cache beside this file)",
    )
    parser.add_argument(
        "--doc", type=Path, help="where the table goes; docs/int8_quality.md for all-MiniLM-L6-v2"
    )
    parser.add_argument(
        "--quick", action="store_true", help="skip nDCG, which embeds the whole collection"
    )
    parser.add_argument(
        "--documents", type=int, default=DOCUMENTS, metavar="N", help="of nfcorpus, for cosines"
    )
    parser.add_argument(
        "--redo", nargs="+", default=[], metavar="ROW", choices=names, help="measure again"
    )
    parser.add_argument(
        "--only", nargs="+", default=[], metavar="ROW", choices=names, help="leave out the others"
    )
    return parser.parse_args()


if __name__ == "__main__":
    main()
