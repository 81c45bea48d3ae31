"""What form of vector is worth in a real index: usearch and faiss, exact and HNSW, in one run.

    python -m benchmarks.search --vectors 1000000 --json search.json --plot docs/images/search.svg

Vectors: real text is encoded (the bundled sample set with ``--bundle``, or ``--base FILE.npy`` of
your own corpus), and each vector of the index is a mixture of two of these texts' vectors drawn at
random, ``w`` of one and ``1 - w`` of the other with ``w`` from 0.2 to 0.8, and noise of a tenth of
a vector's length, scaled to length 1. Queries are made in the same way with another seed. What
comes of it is as crowded as text on few subjects; your own corpus tells more.

Each index is built in a process of its own, in one thread; its memory is what that process grew by.
Then all of them answer the same queries in rounds of random order, and ratios are of the same
rounds. Seconds are CPU seconds: other work on the machine counts for less.
"""

import argparse
import json
import multiprocessing
import random
import resource
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.ending import die_with_parent
from pipeline.measure.speed.intervals import LEAST_ROUNDS, compare
from pipeline.runtime.output import EmbeddingPrecision, quantize_embeddings
from pipeline.vectors import FloatArray, unit

FORMS: tuple[EmbeddingPrecision, ...] = ("float32", "float16", "int8_dot", "ubinary")
WANTED = 10
LINKS = 16
BUILD_CANDIDATES = 128
SEARCH_CANDIDATES = 64
_NOISE = 0.1
_BLOCK = 65_536


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """One index: a library, exact search or HNSW, and the form of its vectors."""

    library: str
    kind: str
    form: EmbeddingPrecision

    @property
    def name(self) -> str:
        """Return it in words."""
        return f"{self.library} {self.kind} {self.form}"


def mix(base: FloatArray, count: int, seed: int) -> Iterator[FloatArray]:
    """Yield ``count`` vectors made of pairs of ``base``, some at a time."""
    chance = np.random.default_rng(seed)
    for start in range(0, count, _BLOCK):
        n = min(_BLOCK, count - start)
        i, j = chance.integers(0, len(base), (2, n))
        w = chance.uniform(0.2, 0.8, (n, 1)).astype(np.float32)
        noise = chance.normal(size=(n, base.shape[1])).astype(np.float32)
        yield unit(w * base[i] + (1 - w) * base[j] + _NOISE * unit(noise))


def exact_neighbours(vectors: FloatArray, queries: FloatArray) -> npt.NDArray[np.int64]:
    """Return the ten vectors of highest dot product with each query."""
    best = np.full((len(queries), WANTED), -np.inf, np.float32)
    names = np.zeros((len(queries), WANTED), np.int64)
    for start in range(0, len(vectors), _BLOCK):
        scores = np.hstack((best, queries @ vectors[start : start + _BLOCK].T))
        near = np.argpartition(-scores, WANTED, axis=1)[:, :WANTED]
        best = np.take_along_axis(scores, near, axis=1)
        seen = np.hstack((names, np.zeros((len(queries), scores.shape[1] - WANTED), np.int64)))
        seen[:, WANTED:] = np.arange(start, start + scores.shape[1] - WANTED)
        names = np.take_along_axis(seen, near, axis=1)
    return names


class Opened:
    """An index of one of the libraries, behind one interface, in one thread."""

    def __init__(self, side: Side, columns: int) -> None:
        """Make an empty index for vectors with so many columns."""
        self._side = side
        self._bits = side.form == "ubinary"
        self._blocks: list[npt.NDArray[Any]] = []
        self._rows: npt.NDArray[Any] | None = None
        self._index: Any = self._usearch(columns) if self._is_usearch else self._faiss(columns)

    @property
    def _is_usearch(self) -> bool:
        return self._side.library == "usearch"

    def _usearch(self, columns: int) -> Any:
        from usearch.index import Index

        dtypes = {"float32": "f32", "float16": "f16", "int8_dot": "i8", "ubinary": "b1"}
        return Index(
            ndim=columns * (8 if self._bits else 1),
            metric="hamming" if self._bits else "cos",
            dtype=dtypes[self._side.form],
            connectivity=LINKS,
            expansion_add=BUILD_CANDIDATES,
            expansion_search=SEARCH_CANDIDATES,
        )

    def _faiss(self, columns: int) -> Any:
        import faiss as module

        faiss: Any = module  # its stubs know less than it takes

        faiss.omp_set_num_threads(1)
        flat, ip = self._side.kind == "exact", faiss.METRIC_INNER_PRODUCT
        index: Any
        if self._bits:
            bits = 8 * columns
            index = faiss.IndexBinaryFlat(bits) if flat else faiss.IndexBinaryHNSW(bits, LINKS)
        elif self._side.form == "float32":
            index = faiss.IndexFlatIP(columns) if flat else faiss.IndexHNSWFlat(columns, LINKS, ip)
        else:
            quantizer = faiss.ScalarQuantizer
            half = self._side.form == "float16"
            stored = quantizer.QT_fp16 if half else quantizer.QT_8bit_direct_signed
            index = (
                faiss.IndexScalarQuantizer(columns, stored, ip)
                if flat
                else faiss.IndexHNSWSQ(columns, stored, LINKS, ip)
            )
            index.is_trained = True
        if not flat:
            index.hnsw.efConstruction = BUILD_CANDIDATES
            index.hnsw.efSearch = SEARCH_CANDIDATES
        return index

    def add(self, vectors: npt.NDArray[Any], first: int) -> None:
        """Add a block whose first row is number ``first``."""
        if self._is_usearch and self._side.kind == "exact":
            self._blocks.append(vectors)  # usearch's exact search takes an array, no index
        elif self._is_usearch:
            keys = np.arange(first, first + len(vectors), dtype=np.uint64)
            self._index.add(keys, vectors, threads=1)
        else:
            self._index.add(self._as_faiss(vectors))

    def search(self, queries: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
        """Return the ten nearest of each query."""
        if self._is_usearch:
            if self._side.kind == "exact":
                found = self._scan(queries)
            else:
                found = self._index.search(queries, WANTED, threads=1)
            return np.asarray(found.keys).astype(np.int64).reshape(len(queries), WANTED)
        keys: npt.NDArray[np.int64] = self._index.search(self._as_faiss(queries), WANTED)[1]
        return keys

    def finish(self) -> None:
        """Join what was added, where it was kept."""
        if self._blocks:
            self._rows = np.concatenate(self._blocks)
            self._blocks = []

    def _scan(self, queries: npt.NDArray[Any]) -> Any:
        from usearch import index

        usearch: Any = index
        metric = usearch.MetricKind.Hamming if self._bits else usearch.MetricKind.Cos
        return usearch.search(self._rows, queries, WANTED, metric, exact=True, threads=1)

    def _as_faiss(self, vectors: npt.NDArray[Any]) -> npt.NDArray[Any]:
        return np.ascontiguousarray(vectors if self._bits else vectors.astype(np.float32))


def measure_side(side: Side, directory: str, rounds: int, out: Any) -> None:
    """Build an index, then time a round of queries whenever told to; in a process of its own."""
    die_with_parent()
    ranges = np.load(Path(directory, "ranges.npy"))
    vectors = np.load(Path(directory, "vectors.npy"), mmap_mode="r")
    steps = ranges if side.form == "int8_dot" else None
    queries = quantize_embeddings(np.load(Path(directory, "queries.npy")), side.form, steps)
    index: Opened | None = None
    before, seconds = _memory(), 0.0
    for start in range(0, len(vectors), _BLOCK):
        block = quantize_embeddings(np.array(vectors[start : start + _BLOCK]), side.form, steps)
        index = index or Opened(side, block.shape[1])
        started = time.process_time()
        index.add(block, start)
        seconds += time.process_time() - started
    assert index is not None
    index.finish()
    out.send({"build_cpu_s": seconds, "memory_bytes": _memory() - before})
    for _ in range(rounds):
        out.recv()
        started = time.process_time()
        found = index.search(queries)
        out.send((time.process_time() - started, found))


def _memory() -> int:
    """Return this process's resident memory without the pages of files it has mapped."""
    fields = Path("/proc/self/statm").read_text("ascii").split()
    return (int(fields[1]) - int(fields[2])) * resource.getpagesize()


def measure(sides: Sequence[Side], directory: str, rounds: int) -> dict[str, dict[str, Any]]:
    """Build every side, then have all of them answer the queries, round by round."""
    context = multiprocessing.get_context("spawn")
    links, processes, rows = {}, [], {}
    for side in sides:
        here, there = context.Pipe()
        process = context.Process(target=measure_side, args=(side, directory, rounds, there))
        process.start()
        there.close()
        rows[side.name] = here.recv()
        print(f"{side.name}: {rows[side.name]}", flush=True)
        links[side.name] = here
        processes.append(process)
    exact = np.load(Path(directory, "exact.npy"))
    chance = random.Random(0)
    seconds: dict[str, list[float]] = {name: [] for name in links}
    for _ in range(rounds):
        for name in chance.sample(list(links), len(links)):
            links[name].send("go")
            taken, found = links[name].recv()
            seconds[name].append(taken)
            shares = [len({*a} & {*b}) / WANTED for a, b in zip(exact, found, strict=True)]
            rows[name]["recall_at_10"] = float(np.mean(shares))
    for process in processes:
        process.join()
    for side in sides:
        same = np.array(seconds[f"{side.library} {side.kind} float32"])
        own = np.array(seconds[side.name])
        ratio = compare(same, own)
        rows[side.name] |= {
            "queries_per_cpu_s": len(exact) / float(np.median(own)),
            "times_float32": {"median": ratio.median, "ci95": list(ratio.ci95)},
        }
    return rows


def table(rows: dict[str, dict[str, Any]]) -> str:
    """Return the rows as a Markdown table."""
    lines = [
        "| index | vectors | build, CPU s | memory, MiB | recall@10 | queries a CPU second "
        "| times float32 (95 %) |",
        "|---|---|--:|--:|--:|--:|--:|",
    ]
    for name, row in rows.items():
        library, kind, form = name.split()
        ratio = row["times_float32"]
        lines.append(
            f"| {library} {kind} | {form} | {row['build_cpu_s']:.1f} "
            f"| {row['memory_bytes'] / 2**20:.0f} | {100 * row['recall_at_10']:.1f} % "
            f"| {row['queries_per_cpu_s']:,.0f} "
            f"| {ratio['median']:.2f} ({ratio['ci95'][0]:.2f} to {ratio['ci95'][1]:.2f}) |"
        )
    return "\n".join(lines)


def draw(rows: dict[str, dict[str, Any]], path: Path) -> None:
    """Draw recall over queries a second, a shape an index and a colour a form of vector."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.2, 4.4), layout="constrained")
    axes = figure.add_subplot()
    colours = dict(zip(FORMS, ("C0", "C1", "C2", "C3"), strict=True))
    shapes = {"usearch exact": "s", "usearch hnsw": "D", "faiss exact": "o", "faiss hnsw": "^"}
    for name, row in rows.items():
        library, kind, form = name.split()
        axes.scatter(
            row["queries_per_cpu_s"],
            100 * row["recall_at_10"],
            color=[c for f, c in colours.items() if f == form],
            marker=shapes[f"{library} {kind}"],
        )
    for text, shape in shapes.items():
        axes.scatter([], [], color="grey", marker=shape, label=text)
    for text, colour in colours.items():
        axes.scatter([], [], color=colour, marker=".", label=text)
    axes.set_xscale("log")
    axes.set_xlabel("queries a CPU second, one thread")
    axes.set_ylabel("recall@10 of exact float32 search, %")
    axes.grid(visible=True, alpha=0.3)
    axes.legend(fontsize="small", ncols=2)
    figure.savefig(path, metadata={"Date": None})


def main() -> None:
    """Make the vectors, measure every side, print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    given = parser.add_mutually_exclusive_group(required=True)
    given.add_argument("--bundle", help="encodes the sample set")
    given.add_argument("--base", help=".npy of float32 vectors of your own texts")
    parser.add_argument("--vectors", type=int, default=1_000_000)
    parser.add_argument("--queries", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=LEAST_ROUNDS)
    parser.add_argument("--libraries", nargs="+", default=["usearch", "faiss"])
    parser.add_argument("--kinds", nargs="+", default=["exact", "hnsw"])
    parser.add_argument("--forms", nargs="+", choices=FORMS, default=list(FORMS))
    parser.add_argument("--json", type=Path)
    parser.add_argument("--plot", type=Path)
    options = parser.parse_args()
    if "float32" not in options.forms:
        parser.error("--forms: float32 is what the others are compared with")
    base = unit(np.load(options.base)) if options.base else encode_sample(options.bundle)
    sides = [
        Side(library=library, kind=kind, form=form)
        for library in options.libraries
        for kind in options.kinds
        for form in options.forms
    ]
    with tempfile.TemporaryDirectory() as directory:
        write_vectors(base, options.vectors, options.queries, Path(directory))
        rows = measure(sides, directory, options.rounds)
    print(table(rows))
    if options.json:
        options.json.write_text(json.dumps({"vectors": options.vectors, "rows": rows}, indent=2))
    if options.plot:
        draw(rows, options.plot)


def encode_sample(bundle: str) -> FloatArray:
    """Return a bundle's vectors of the sample set."""
    from pipeline.config import DatasetConfig, DatasetFormat
    from pipeline.runtime import load
    from pipeline.text.datasets import load_dataset

    sample = load_dataset(DatasetConfig(name="sample", format=DatasetFormat.sample))
    return unit(load(bundle).encode([*sample.calibration, *sample.evaluation]))


def write_vectors(base: FloatArray, count: int, queries: int, directory: Path) -> None:
    """Write vectors, queries, their true neighbours and the vectors' ranges."""
    shape = (count, base.shape[1])
    vectors = np.lib.format.open_memmap(directory / "vectors.npy", "w+", np.float32, shape)
    start = 0
    for block in mix(base, count, seed=1):
        vectors[start : start + len(block)] = block
        start += len(block)
    asked = np.concatenate(list(mix(base, queries, seed=2)))
    np.save(directory / "queries.npy", asked)
    np.save(directory / "exact.npy", exact_neighbours(vectors, asked))
    np.save(directory / "ranges.npy", np.stack((base.min(axis=0), base.max(axis=0))))


if __name__ == "__main__":
    main()
