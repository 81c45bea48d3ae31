"""What does ``encode`` cost beside tokenizing? Its time with an engine that returns at once.

Both take the bundled sample's texts in turns, tokenizing alone with the tokenizers library's own
threads; the ratio is that of each round, by the clock and by the CPU time of the whole process.

    python -m benchmarks.encode_cost artifacts/minilm/int8
"""

import argparse
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.gpu.tokenizing import parallelism
from pipeline.bundle.engines import open_parent
from pipeline.config import DatasetConfig, DatasetFormat
from pipeline.runtime.encoder import TextEncoder
from pipeline.runtime.windows import WINDOW_TEXTS
from pipeline.text.datasets import load_dataset
from pipeline.text.tokens import TokenBatch, Tokenizer
from pipeline.vectors import FloatArray


class AtOnce:
    """An engine with nothing to compute: what is left is everything around it."""

    name, device = "at once", "cpu"
    max_tokens: int | None = 2048
    bucketed = False

    def __init__(self, dimension: int, lanes: int) -> None:
        """Make the vectors that every batch gets a part of."""
        self.lanes = lanes
        self._vectors = np.zeros((1 << 16, dimension), np.float32)

    def encode(self, batch: TokenBatch) -> FloatArray:
        """Return zeros ``[batch, dim]``."""
        return self._vectors[: len(batch.input_ids)]

    def encode_beside(self, batch: TokenBatch) -> FloatArray:
        """Return the same."""
        return self.encode(batch)


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """Medians over rounds: seconds of both, and ``encode`` over tokenizing alone."""

    tokenizing_s: float
    encode_s: float
    wall: float
    cpu: float


def main() -> None:
    """Measure and print one line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--texts", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    sample = load_dataset(DatasetConfig(name="sample", format=DatasetFormat.sample)).evaluation
    texts = [sample[i % len(sample)] for i in range(options.texts)]
    cost = measure(options.bundle, texts, rounds=options.rounds)
    print(
        f"{len(texts)} texts, medians of {options.rounds} rounds: tokenizing "
        f"{cost.tokenizing_s:.2f} s, encode {cost.encode_s:.2f} s; "
        f"{cost.wall:.3f} times by the clock, {cost.cpu:.3f} in CPU time"
    )


def measure(bundle: Path, texts: Sequence[str], *, rounds: int) -> Cost:
    """Time both in turns, after one pass of each that does not count."""
    model = open_parent(bundle).manifest["model"]
    tokenizer = Tokenizer(bundle, max_length=int(model["max_length"]))
    dimension = int(model["dimension"])
    encoder = TextEncoder(
        tokenizer,
        AtOnce(dimension, lanes=2),
        dimension=dimension,
        prompts={},
        default_prompt=None,
    )

    def tokenize() -> None:
        for start in range(0, len(texts), WINDOW_TEXTS):
            tokenizer.ragged(texts[start : start + WINDOW_TEXTS])

    with parallelism("true"):
        tokenize()
        encoder.encode(texts)
        times = np.array(
            [[_time(tokenize), _time(lambda: encoder.encode(texts))] for _ in range(rounds)]
        )
    alone, whole = times[:, 0], times[:, 1]
    ratios = whole / alone
    return Cost(
        tokenizing_s=float(np.median(alone[:, 0])),
        encode_s=float(np.median(whole[:, 0])),
        wall=float(np.median(ratios[:, 0])),
        cpu=float(np.median(ratios[:, 1])),
    )


def _time(work: Callable[[], object]) -> tuple[float, float]:
    """Return the seconds by the clock and of CPU."""
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - wall, time.process_time() - cpu


if __name__ == "__main__":
    main()
