"""Does ``python -m pipeline.encode`` stay in constant memory? Peak memory by number of sentences.

Writes files of short sentences (6 to 14 words of the bundled sample text), encodes each with the
command, in a process of its own, and prints its peak resident memory, and what a line through the
peaks says of a million.

    python -m benchmarks.encode_memory artifacts/minilm/int8
"""

import argparse
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from pipeline.config import DatasetConfig, DatasetFormat
from pipeline.text.datasets import load_dataset

SIZES = (10_000, 30_000, 100_000)
MILLION = 1_000_000


def main() -> None:
    """Measure every size and print a table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("bundle")
    parser.add_argument("--engine", default="auto")
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES)
    parser.add_argument("--output", choices=["npy", "parquet"], default="npy")
    options = parser.parse_args()
    peaks = []
    with tempfile.TemporaryDirectory() as directory:
        print("| sentences | seconds | sentences a second | peak memory, MiB |\n|--:|--:|--:|--:|")
        for size in options.sizes:
            texts, output = Path(directory, "texts.txt"), Path(directory, f"out.{options.output}")
            write_sentences(texts, size)
            command = [options.bundle, str(texts), str(output), "--engine", options.engine]
            seconds, peak = run_measured([*command, "--overwrite"])
            peaks.append(peak)
            print(f"| {size:,} | {seconds:.1f} | {size / seconds:.0f} | {peak:.1f} |", flush=True)
    if len(peaks) > 1:
        slope, start = np.polyfit(options.sizes, peaks, 1)
        at_million = start + slope * MILLION
        print(
            f"\nslope: {slope * MILLION:+.1f} MiB a million sentences; there: {at_million:.0f} MiB"
        )


def write_sentences(path: Path, count: int) -> None:
    """Write short sentences, one a line, the same ones every time."""
    sample = load_dataset(DatasetConfig(name="sample", format=DatasetFormat.sample))
    words = " ".join(sample.evaluation).split()
    picker = random.Random(0)
    with path.open("w", encoding="utf-8") as stream:
        for _ in range(count):
            stream.write(" ".join(picker.choices(words, k=picker.randint(6, 14))) + "\n")


def run_measured(arguments: Sequence[str]) -> tuple[float, float]:
    """Return the seconds that encoding took, the bundle's loading included, and peak MiB."""
    started = time.monotonic()
    command = [sys.executable, "-m", "pipeline.encode", *arguments]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"exit code {process.returncode}")
    return time.monotonic() - started, usage.ru_maxrss / 1024


if __name__ == "__main__":
    main()
