"""Encode a file of texts with a published bundle: txt, jsonl, csv, parquet in; npy, parquet out.

    python -m pipeline.encode artifacts/minilm/int8 texts.txt vectors.npy

Memory does not grow with the file, and the output is written whole or not at all. Exit codes:
0 written; 1 an error, one line on stderr; 130 or 143 interrupted.
"""

import argparse
import signal
import sys
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, NoReturn, get_args

import numpy as np
import numpy.typing as npt

from pipeline.errors import EncodeError, PipelineError
from pipeline.runtime.output import EmbeddingPrecision
from pipeline.runtime.text_files import FORMATS, STDIN, Chunk, TextSource, make_source, read_chunks
from pipeline.runtime.vector_files import VECTORS, write_vectors

Encode = Callable[[Iterable[str]], Generator[npt.NDArray[Any], None, None]]
"""Texts to blocks of vectors, in order; closing it ends its threads."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Encode what the command line names and return the exit code."""
    try:
        options = _parser().parse_args(arguments)
    except SystemExit as stop:  # 2 would say that a gate failed
        return 1 if stop.code else 0
    signal.signal(signal.SIGTERM, _terminate)
    started = time.monotonic()
    try:
        count, shape = encode_file(options)
    except PipelineError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted: nothing was written", file=sys.stderr)
        return 130
    seconds = time.monotonic() - started
    print(f"{options.output}: {count} vectors, {shape}, {seconds:.1f} s")
    return 0


def _terminate(*_: object) -> NoReturn:
    """Leave as after Ctrl-C: files that are not complete are removed on the way out."""
    raise SystemExit(143)


def encode_file(options: argparse.Namespace) -> tuple[int, str]:
    """Encode as the options say, and return how many texts and what their vectors are.

    Raises:
        PipelineError: the bundle, the texts or the output cannot be used.
    """
    keep = [name for name in (options.keep or "").split(",") if name]
    source = make_source(options.input, options.format, options.column, keep)
    output = Path(options.output)
    if keep and output.suffix == ".npy":
        raise EncodeError(f"{output}: npy holds vectors only; name a .parquet file to keep columns")
    if VECTORS in keep:
        raise EncodeError(f"--keep {VECTORS}: the vectors' column has that name; rename yours")
    ranges = None if options.ranges is None else _read_ranges(options.ranges)
    with write_vectors(output, overwrite=options.overwrite) as writer:
        encode = _make_encode(options, ranges)
        (empty,) = encode([])
        count = 0
        with _progress(options, source) as advance:
            for vectors, kept in _encode_chunks(read_chunks(source), encode):
                writer.write(vectors, kept)
                count += len(vectors)
                advance(len(vectors))
        writer.finish(empty, keep)
    return count, f"{empty.shape[1]} × {empty.dtype}"


def _encode_chunks(
    chunks: Iterator[Chunk], encode: Encode
) -> Iterator[tuple[npt.NDArray[Any], Mapping[str, Any]]]:
    """Yield each chunk's vectors and kept columns; chunks are read ahead of the engine."""
    read: deque[Chunk] = deque()

    def texts() -> Iterator[str]:
        for chunk in chunks:
            read.append(chunk)
            yield from chunk.texts

    with closing(encode(texts())) as blocks:
        parts: list[npt.NDArray[Any]] = []
        rows = 0
        for block in blocks:
            parts.append(block)
            rows += len(block)
            while read and rows >= len(read[0].texts):
                chunk = read.popleft()
                whole = parts[0] if len(parts) == 1 else np.concatenate(parts)
                size = len(chunk.texts)
                yield whole[:size], chunk.kept
                parts, rows = [whole[size:]], rows - size


def _make_encode(options: argparse.Namespace, ranges: npt.NDArray[Any] | None) -> Encode:
    from pipeline.runtime import load

    encoder = load(options.bundle, options.engine)
    ranged = options.precision in ("int8", "uint8", "int8_dot")
    if ranged and ranges is None and encoder.embedding_ranges is None:
        raise EncodeError(
            f"--precision {options.precision}: {options.bundle} was published before bundles held "
            "their vectors' ranges; publish it again, or give --ranges FILE, an .npy of float32 "
            "vectors like those to come"
        )

    def encode(texts: Iterable[str]) -> Generator[npt.NDArray[Any], None, None]:
        return encoder.encode_blocks(
            texts,
            options.batch_size,
            prompt_name=options.prompt_name,
            prompt=options.prompt,
            truncate_dim=options.truncate_dim,
            normalize_embeddings=options.normalize,
            precision=options.precision,
            ranges=ranges,
        )

    try:
        list(encode([]))
    except ValueError as error:  # a prompt name, a dimension, ranges that do not fit the model
        raise EncodeError(str(error)) from error
    return encode


def _read_ranges(path: str) -> npt.NDArray[Any]:
    """Return the smallest and largest value of each dimension, ``[2, dim]``."""
    try:
        vectors = np.load(path, mmap_mode="r", allow_pickle=False)
        if vectors.ndim != 2 or len(vectors) < 2 or vectors.dtype.kind != "f":
            raise ValueError(f"{list(vectors.shape)} {vectors.dtype}, expected floats [n, dim]")
        return np.stack((vectors.min(axis=0), vectors.max(axis=0)))
    except (OSError, ValueError, EOFError) as error:
        raise EncodeError(f"--ranges {path}: {error}") from error


def _progress(options: argparse.Namespace, source: TextSource) -> Any:
    from contextlib import nullcontext

    if not options.progress:
        return nullcontext(lambda _: None)
    from pipeline.progress import counting

    return counting(Path(source.path).name, total=None)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m pipeline.encode",
        description="Encode a file of texts with a published bundle.",
    )
    add = parser.add_argument
    add("bundle", metavar="BUNDLE", help="directory that the pipeline published")
    add("input", metavar="INPUT", help=f"texts: a file, or {STDIN} for stdin (give --format)")
    add("output", metavar="OUTPUT", help="where the vectors go: a name in .npy or .parquet")
    add("--format", choices=FORMATS, help="of INPUT, where its name does not say")
    add("--column", metavar="NAME", help="of the text in jsonl, csv and parquet (default: text)")
    add("--keep", metavar="NAME,…", help="columns to write beside the vectors, into .parquet")
    add("--engine", default="auto", help="as in pipeline.runtime.load (default: %(default)s)")
    add(
        "--batch-size",
        type=_positive,
        metavar="N",
        help="most texts at once (default: the engine's)",
    )
    add("--prompt-name", metavar="NAME", help="one of the model's prompts, such as query")
    add("--prompt", metavar="TEXT", help="put before every text, in place of the model's own")
    add("--truncate-dim", type=_positive, metavar="N", help="keep the first N dimensions")
    add("--normalize", action="store_true", help="scale vectors to length 1")
    add("--precision", choices=get_args(EmbeddingPrecision), default="float32")
    add("--ranges", metavar="FILE", help="for int8 and uint8: an .npy in place of the bundle's")
    add("--overwrite", action="store_true", help="replace OUTPUT if it exists")
    add("--progress", action="store_true", help="show a bar, on a terminal")
    return parser


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number}: expected a positive number")
    return number


if __name__ == "__main__":
    sys.exit(main())
