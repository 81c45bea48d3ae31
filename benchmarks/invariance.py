"""Does a text's vector depend on what it is encoded with? The largest move of any of many texts.

Encodes texts alone; then in batches of several sizes, as they come, by length and shuffled; padded
to every bucket; and from several threads at once. Prints by how much one component of any vector,
at length 1, moves at most against the text alone.

    python -m benchmarks.invariance artifacts/minilm/fp32 artifacts/minilm/int8
"""

import argparse
import random
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from pipeline.config import DatasetConfig, DatasetFormat
from pipeline.runtime import TextEncoder, load
from pipeline.runtime.invariance import largest_move
from pipeline.text.datasets import load_dataset
from pipeline.text.tokens import TokenRow
from pipeline.vectors import FloatArray, row_cosines

SIZES = (2, 3, 8, 32, 128)
BUCKETS = (32, 64, 128, 256, 512)
ORDERS = ("as they come", "reversed", "by length", "shuffled")
THREADS = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """Which ways are to be measured; threads always are."""

    sizes: Sequence[int]
    orders: Sequence[str]
    buckets: Sequence[int]


Way = tuple[str, Callable[[], FloatArray]]


def main() -> None:
    """Measure each bundle in each engine and print a table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("bundle", nargs="+")
    parser.add_argument("--engines", nargs="+", default=["onnxruntime", "openvino"])
    parser.add_argument("--texts", type=int, default=1000, help="of the bundled sample")
    parser.add_argument("--file", type=Path, help="take these texts, one a line")
    parser.add_argument("--sizes", type=int, nargs="*", default=SIZES)
    parser.add_argument("--orders", nargs="*", default=ORDERS, choices=ORDERS)
    parser.add_argument("--buckets", type=int, nargs="*", default=BUCKETS)
    options = parser.parse_args()
    file: Path | None = options.file
    texts = file.read_text("utf-8").splitlines() if file else choose_texts(options.texts)
    asked = Asked(sizes=options.sizes, orders=options.orders, buckets=options.buckets)
    print("| bundle | engine | way | largest move | lowest cosine | texts that move by over 1e-5 |")
    print("|---|---|---|--:|--:|--:|", flush=True)
    for bundle in options.bundle:
        for engine in options.engines:
            encoder = load(bundle, engine)
            for line in measure(encoder, texts, asked):
                print(f"| {bundle} | {engine} | {line} |", flush=True)


def choose_texts(count: int) -> list[str]:
    """Return texts of every kind and length of the bundled sample, shuffled, always the same."""
    sample = load_dataset(DatasetConfig(name="sample", format=DatasetFormat.sample))
    texts = list(dict.fromkeys([*sample.evaluation, *sample.calibration]))
    random.Random(0).shuffle(texts)
    return texts[:count]


def measure(encoder: TextEncoder, texts: Sequence[str], asked: Asked) -> Iterator[str]:
    """Yield a line for each way of encoding, against each text alone."""
    rows = encoder.tokenizer.rows(texts)
    alone = encode_rows(encoder, [[i] for i in range(len(rows))], rows)
    for name, encode in ways(encoder, texts, rows, asked):
        observed = encode()
        moves = [largest_move(a[None], b[None]) for a, b in zip(alone, observed, strict=True)]
        lowest = row_cosines(alone, observed).min()
        over = sum(move > 1e-5 for move in moves)
        yield f"{name} | {max(moves):.1e} | {lowest:.7f} | {over}"


def ways(
    encoder: TextEncoder, texts: Sequence[str], rows: Sequence[TokenRow], asked: Asked
) -> Iterator[Way]:
    """Yield each way to encode the texts other than one by one."""
    given = list(range(len(rows)))
    by_length = sorted(given, key=lambda i: len(rows[i].ids))
    shuffled = random.Random(1).sample(given, len(given))
    orders = dict(zip(ORDERS, (given, given[::-1], by_length, shuffled), strict=True))
    for size in asked.sizes:
        for name in asked.orders:
            order = orders[name]
            batches = [order[at : at + size] for at in range(0, len(order), size)]
            yield f"batches of {size}, {name}", partial(encode_rows, encoder, batches, rows)
    for bucket in asked.buckets:
        fit = [i for i in by_length if len(rows[i].ids) <= bucket]
        batches = [fit[at : at + 8] for at in range(0, len(fit), 8)]
        batches += [[i] for i in by_length[len(fit) :]]
        if bucket <= encoder.tokenizer.max_length:
            name = f"{len(fit)} padded to {bucket}"
            yield name, partial(encode_rows, encoder, batches, rows, bucket)
    yield f"{THREADS} threads at once", partial(in_threads, encoder, texts)


def encode_rows(
    encoder: TextEncoder,
    batches: Sequence[Sequence[int]],
    rows: Sequence[TokenRow],
    width: int | None = None,
) -> FloatArray:
    """Encode batches of rows, by their indices, padded to ``width`` where they are not longer."""
    vectors = np.empty((len(rows), encoder.dimension), np.float32)
    for batch in batches:
        chosen = [rows[i] for i in batch]
        longest = max(len(row.ids) for row in chosen)
        length = None if width is None else max(width, longest)
        padded = encoder.tokenizer.pad(chosen, length=length)
        vectors[list(batch)] = encoder.engine.encode(padded)
    return vectors


def in_threads(encoder: TextEncoder, texts: Sequence[str]) -> FloatArray:
    """Encode a share of the texts in each of several threads."""
    shares = [list(texts[at::THREADS]) for at in range(THREADS)]
    vectors = np.empty((len(texts), encoder.dimension), np.float32)
    with ThreadPoolExecutor(THREADS) as pool:
        found = pool.map(lambda share: encoder.encode(share, batch_size=16, prompt=""), shares)
        for at, part in enumerate(found):
            vectors[at::THREADS] = part
    return vectors


if __name__ == "__main__":
    main()
