"""Encode files of texts with a published bundle; write vectors, an index, or lines to load.

    python -m pipeline.encode artifacts/minilm/int8 texts.txt vectors.npy

Memory does not grow with the file (an index is in memory), and the output is written whole or not
at all. Exit codes: 0 written; 1 an error, one line on stderr; 130 or 143 interrupted.
"""

import argparse
import glob
import hashlib
import sys
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.ending import run_to_end
from pipeline.errors import EncodeError, PipelineError
from pipeline.printable import print_error
from pipeline.runtime import parts
from pipeline.runtime.encode_options import make_parser
from pipeline.runtime.index_files import index_precision
from pipeline.runtime.index_ids import IDS
from pipeline.runtime.parts import Job, Share
from pipeline.runtime.text_files import STDIN, Chunk, TextSource, make_source, read_chunks
from pipeline.runtime.vector_files import INDEXES, VECTORS, kind_of, write_vectors

Encode = Callable[[Iterable[str]], Generator[npt.NDArray[Any], None, None]]
"""Texts to blocks of vectors, in order; closing it ends its threads."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Encode what the command line names and return the exit code."""
    try:
        options = make_parser().parse_args(arguments)
    except SystemExit as stop:  # 2 would say that a gate failed
        return 1 if stop.code else 0
    kept = "the parts that are done stay" if _in_parts(options) else "nothing was written"
    return run_to_end(lambda: _encode(options), left=kept)


def _encode(options: argparse.Namespace) -> int:
    try:
        for line in encode_files(options):
            print(line, flush=True)
    except PipelineError as error:
        print_error(error)
        return 1
    return 0


def encode_files(options: argparse.Namespace) -> Iterator[str]:
    """Encode as the options say; yield a line for each output.

    Raises:
        PipelineError: the bundle, the texts or the output cannot be used.
    """
    outputs = _outputs(options)
    kind = kind_of(next(iter(outputs)), options.to)
    if kind in INDEXES:
        options.precision = index_precision(options.precision, kind)
    keep = _keep(options, kind)
    sources = [make_source(i, options.format, options.column, keep) for i in outputs.values()]
    ranges = None if options.ranges is None else _read_ranges(options.ranges)
    if not _in_parts(options):
        ((output, source),) = zip(outputs, sources, strict=True)
        yield _encode_whole(options, output, source, ranges)
        return
    if options.input == STDIN:
        raise EncodeError("stdin is not read twice; name a file to go on where a run was killed")
    encode = _make_encode(options, ranges)
    share = options.shard or Share()
    by_file = len(sources) >= share.count
    for number, (output, source) in enumerate(zip(outputs, sources, strict=True)):
        if by_file and number % share.count != share.index:
            continue
        job = Job(source=source, output=output, made_from=_made_from(options, source))
        yield _encode_in_parts(options, job, encode, whole=by_file)


def _in_parts(options: argparse.Namespace) -> bool:
    many = options.input != STDIN and not Path(options.input).exists()
    return options.resume or options.shard is not None or (many and glob.has_magic(options.input))


def _outputs(options: argparse.Namespace) -> dict[Path, str]:
    """Return the input of each output; of several inputs OUTPUT is a directory."""
    given, output = options.input, Path(options.output)
    if given == STDIN or Path(given).exists() or not glob.has_magic(given):
        return {output: given}
    found = sorted(glob.glob(given, recursive=True))  # noqa: PTH207 - a pattern may be absolute
    if not found:
        raise EncodeError(f"{given}: no file matches")
    if output.exists() and not output.is_dir():
        raise EncodeError(f"{output}: is a file; of several inputs OUTPUT is a directory")
    options.to = options.to or "npy"
    suffix = {"qdrant-jsonl": "jsonl"}.get(options.to, options.to)
    outputs = {output / f"{Path(path).stem}.{suffix}": path for path in found}
    if len(outputs) < len(found):
        raise EncodeError(f"{given}: two files have one name but for the suffix; rename one")
    return outputs


def _keep(options: argparse.Namespace, kind: str) -> list[str]:
    """Return the columns to read beside the text, the ids' first."""
    options.ids = options.ids or ("_id" if options.format == "beir" and kind != "npy" else None)
    keep = [name for name in (options.keep or "").split(",") if name]
    if keep and kind == "npy":
        raise EncodeError(
            f"{options.output}: npy holds vectors only; name a .parquet file to keep columns"
        )
    if options.ids and kind == "npy":
        raise EncodeError(f"{options.output}: npy holds vectors only; give --to for ids")
    if keep and kind in ("usearch", "faiss"):
        raise EncodeError(f"--keep: {kind} holds vectors and ids only; name those with --ids")
    if VECTORS in keep:
        raise EncodeError(f"--keep {VECTORS}: the vectors' column has that name; rename yours")
    if options.ids and options.ids != IDS and IDS in keep:
        raise EncodeError(f"--keep {IDS}: the ids' column gets that name; leave it out")
    return list(dict.fromkeys([*([options.ids] if options.ids else []), *keep]))


def _named(options: argparse.Namespace, kept: Mapping[str, Any]) -> dict[str, Any]:
    return {IDS if name == options.ids else name: values for name, values in kept.items()}


def _encode_whole(
    options: argparse.Namespace, output: Path, source: TextSource, ranges: npt.NDArray[Any] | None
) -> str:
    started, count = time.monotonic(), 0
    with write_vectors(
        output, overwrite=options.overwrite, to=options.to, index=options.index
    ) as writer:
        encode = _make_encode(options, ranges)
        (empty,) = encode([])
        with _progress(options, source) as advance:
            for vectors, kept in _encode_chunks(read_chunks(source), encode):
                writer.write(vectors, _named(options, kept))
                count += len(vectors)
                advance(len(vectors))
        writer.finish(empty, list(_named(options, dict.fromkeys(source.keep))))
    return _line(output, count, empty, started)


def _encode_in_parts(options: argparse.Namespace, job: Job, encode: Encode, *, whole: bool) -> str:
    if parts.is_done(job, overwrite=options.overwrite):
        return f"{job.output}: there already"
    started, count = time.monotonic(), 0

    def make(texts: list[str]) -> npt.NDArray[Any]:
        return np.concatenate(list(encode(texts)))

    share = options.shard or Share()
    number, wanting = parts.encode_parts(job, share, whole, make, overwrite=options.overwrite)
    if wanting:
        return f"{job.output}: {wanting} of {number} parts are left to other workers"
    if parts.is_done(job, overwrite=options.overwrite):
        return f"{job.output}: there already"
    (empty,) = encode([])
    with write_vectors(job.output, overwrite=True, to=options.to, index=options.index) as writer:
        for vectors, kept in parts.joined(job, number):
            writer.write(vectors, _named(options, kept))
            count += len(vectors)
        writer.finish(empty, list(_named(options, dict.fromkeys(job.source.keep))))
    parts.finish(job)
    return _line(job.output, count, empty, started)


def _line(output: Path, count: int, empty: npt.NDArray[Any], started: float) -> str:
    shape = f"{empty.shape[1]} × {empty.dtype}"
    return f"{output}: {count} vectors, {shape}, {time.monotonic() - started:.1f} s"


def _made_from(options: argparse.Namespace, source: TextSource) -> dict[str, Any]:
    """Return all that the output depends on, as JSON holds it."""
    from pipeline.bundle.manifest import manifest_bytes

    names = ("engine", "batch_size", "prompt_name", "prompt", "truncate_dim", "normalize")
    ranges = None if options.ranges is None else Path(options.ranges).read_bytes()
    return {
        "input": parts.describe_input(Path(source.path)),
        "format": source.form,
        "column": source.column,
        "keep": list(source.keep),
        "ids": options.ids,
        "bundle_sha256": hashlib.sha256(manifest_bytes(Path(options.bundle))).hexdigest(),
        **{name: getattr(options, name) for name in names},
        "precision": options.precision,
        "ranges_sha256": None if ranges is None else hashlib.sha256(ranges).hexdigest(),
        "to": options.to,
        "index": options.index,
    }


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


if __name__ == "__main__":
    sys.exit(main())
