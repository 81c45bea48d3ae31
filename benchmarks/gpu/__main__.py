"""One run on one machine: every section that can be measured here, or why it cannot, in one JSON.

    python -m benchmarks.gpu --bundle artifacts/minilm/int8 --json gpu.json

The model that the bundle was made from is found as its manifest says; ``--model`` names its
directory where it has moved.
"""

import argparse
import json
import logging
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.gpu.bench import Bench, open_bench
from benchmarks.gpu.ceilings import measure_ceilings, measure_model_gemms
from benchmarks.gpu.feed import measure_text_to_vectors
from benchmarks.gpu.graphs import measure_graphs
from benchmarks.gpu.schema import SCHEMA, SECTIONS, problems
from benchmarks.gpu.sides import measured_memory
from benchmarks.gpu.speed import (
    measure_agreement,
    measure_cells,
    measure_latency,
    measure_throughput,
)
from benchmarks.gpu.tokenizing import measure_padding, measure_tokenization
from pipeline.engines.gpu import gpu_clocks
from pipeline.errors import PipelineError
from pipeline.flow.environment import describe_environment
from pipeline.measure.speed.intervals import LEAST_ROUNDS
from pipeline.measure.speed.rounds import RoundLimits
from pipeline.text.tokens import by_length

log = logging.getLogger(__name__)

BATCH_SIZE = 32
NARROW = 0.04
ROUNDS_S, LATENCY_S, GRID_S = 40.0, 30.0, 120.0
"""Seconds for the parts that take what they are given; the rest of a run takes about as long."""


def main() -> None:
    """Run, check the result against its schema, and write it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--bundle", type=Path, required=True, help="a published bundle")
    parser.add_argument("--model", type=Path, help="its Sentence Transformer, if not as recorded")
    parser.add_argument("--json", type=Path, required=True, help="where the result goes")
    parser.add_argument("--quick", action="store_true", help="seconds, to see that it runs")
    parser.add_argument("--only", nargs="+", choices=list(SECTIONS), help="these sections only")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    try:
        result = run(options.bundle, options.model, quick=options.quick, only=options.only)
    except PipelineError as error:
        raise SystemExit(f"error: {error}") from error
    options.json.write_text(json.dumps(result, indent=1) + "\n", "utf-8")
    wrong = problems(result)
    if wrong:
        raise SystemExit(f"{options.json} is not as docs/gpu.md says: {'; '.join(wrong)}")
    log.info("%s: %.0f s", options.json, result["seconds"])


def run(
    bundle: Path, model: Path | None, *, quick: bool, only: Sequence[str] | None = None
) -> dict[str, Any]:
    """Return the result as ``schema`` describes it.

    Raises:
        BundleError: no bundle there, or the model found is not the one it was made from.
    """
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as scratch:
        bench = open_bench(bundle, model, Path(scratch) / "resolve", quick=quick)
        sections: dict[str, Any] = {}
        clocks = {"before": gpu_clocks()}
        for name, measure in _sections(bench, sections, quick=quick).items():
            if only is not None and name not in only:
                sections[name] = {"skipped": "not in --only"}
                continue
            log.info("%s …", name)
            sections[name] = measure()
        clocks["after"] = gpu_clocks()
    told = all(sample is not None for sample in clocks.values())
    sections["clocks"] = clocks if told else {"skipped": "nvidia-smi says nothing here"}
    return {
        "schema": SCHEMA,
        "command": f"python -m benchmarks.gpu --bundle {bundle.name}{' --quick' * quick}",
        "quick": quick,
        "bundle": {
            "model": bench.manifest["model"]["id"],
            "precision": bench.manifest["precision"],
            "model_sha256": bench.manifest["model"]["weights_sha256"],
        },
        "device": bench.device,
        "encoder": asdict(bench.work),
        "environment": describe_environment(),
        "seconds": time.perf_counter() - started,
        "sections": sections,
    }


def _sections(bench: Bench, done: dict[str, Any], *, quick: bool) -> dict[str, Callable[[], Any]]:
    """Return what measures each section, in order; the grid reads the ceilings already ``done``."""
    device, sides = bench.device, bench.sides
    skipped = {name: {"skipped": reason} for name, reason in bench.reasons.items()}
    timed = bench.rows[: 16 if quick else 256]
    batches = [bench.tokenizer.pad([timed[i] for i in b]) for b in by_length(timed, BATCH_SIZE)]
    singles = [bench.tokenizer.pad([row]) for row in bench.rows[:100]]
    limits = RoundLimits(
        min_rounds=LEAST_ROUNDS,
        max_rounds=LEAST_ROUNDS if quick else 40,
        narrow=NARROW,
        budget_s=ROUNDS_S,
    )
    return {
        "ceilings": lambda: measure_ceilings(device, quick=quick),
        "model_gemms": lambda: measure_model_gemms(device, quick=quick),
        "tokenization": lambda: measure_tokenization(
            bench.tokenizer, bench.texts, batch_size=BATCH_SIZE, quick=quick
        ),
        "padding": lambda: measure_padding(bench.rows, [BATCH_SIZE, 4 * BATCH_SIZE]),
        "sides": lambda: (
            {name: {"device": s.encoder.device, "kind": s.kind} for name, s in sides.items()}
            | skipped
        ),
        "agreement": lambda: (
            measure_agreement(sides, bench.tokenizer, bench.rows, BATCH_SIZE) | skipped
        ),
        "latency_ms": lambda: (
            measure_latency(sides, singles, runs=20 if quick else 500, budget_s=LATENCY_S) | skipped
        ),
        "throughput": lambda: measure_throughput(sides, batches, limits) | skipped,
        "grid": lambda: (
            measure_cells(
                sides,
                bench.rows,
                bench.shapes,
                bench.work,
                done.get("ceilings", {}),
                narrow=NARROW,
                budget_s=GRID_S,
            )
            | skipped
        ),
        "text_to_vectors": lambda: measure_text_to_vectors(
            sides,
            bench.tokenizer,
            bench.texts,
            dimension=int(bench.manifest["model"]["dimension"]),
            quick=quick,
        ),
        "memory": lambda: measured_memory(sides) | skipped,
        "cuda_graphs": lambda: measure_graphs(sides) | skipped,
    }


if __name__ == "__main__":
    main()
