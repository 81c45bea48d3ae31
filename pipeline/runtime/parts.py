"""Encode a file in parts that stay when a run is killed, by one process or by several.

A part is a stretch of the input's texts, encoded by itself: what is in it does not depend on who
encodes it, or on when. Parts lie beside the output in ``OUTPUT.parts``; whoever finds all of them
there joins them. Workers share nothing but that directory.
"""

import contextlib
import hashlib
import os
import re
import shutil
import socket
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.errors import EncodeError
from pipeline.files import read_json, write_json
from pipeline.runtime.text_files import Chunk, TextSource, read_chunks

PART_TEXTS = 32_768
PART_CHARACTERS = 16 << 20
"""A part of long texts ends at the chunk that passes this."""

_END = 1 << 20
"""Bytes at an input's beginning and end that tell it from another of the same size."""

MakeVectors = Callable[[list[str]], npt.NDArray[Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """A worker's part of the work: number ``index``, from 0, of ``count`` workers."""

    index: int = 0
    count: int = 1


def parse_share(words: str) -> Share:
    """Return the share that ``i/n`` names, i from 1 to n.

    Raises:
        ValueError: it names none.
    """
    found = re.fullmatch(r"(\d+)/(\d+)", words)
    if found is None or not 1 <= int(found[1]) <= int(found[2]):
        raise ValueError(f"{words}: expected I/N with I from 1 to N, 1/4 say")
    return Share(index=int(found[1]) - 1, count=int(found[2]))


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One input and its output; ``made_from`` is all that the vectors depend on."""

    source: TextSource
    output: Path
    made_from: Mapping[str, Any]

    @property
    def parts(self) -> Path:
        """Where the parts are until they are joined."""
        return self.output.with_name(f"{self.output.name}.parts")

    @property
    def record(self) -> Path:
        """Where ``made_from`` stands once the output is there."""
        return self.output.with_name(f"{self.output.name}.made_from.json")


def describe_input(path: Path) -> dict[str, Any]:
    """Return what tells an input from another, without reading all of it.

    Raises:
        EncodeError: it cannot be read.
    """
    try:
        with path.open("rb") as stream:
            size = os.fstat(stream.fileno()).st_size
            digest = hashlib.sha256(stream.read(_END))
            stream.seek(max(0, size - _END))
            digest.update(stream.read(_END))
    except OSError as error:
        raise EncodeError(f"{path}: {error.strerror or error}") from error
    return {"name": path.name, "bytes": size, "ends_sha256": digest.hexdigest()}


def is_done(job: Job, *, overwrite: bool) -> bool:
    """Whether the output is there and made from the same.

    Raises:
        EncodeError: it was made from something else, and is not to be replaced.
    """
    if not job.output.exists():
        return False
    if read_json(job.record) == job.made_from:
        return True
    if job.output.is_dir() or not overwrite:
        raise EncodeError(
            f"{job.output}: exists, made from other text or with other options; give --overwrite "
            "to replace it"
        )
    return False


def encode_parts(
    job: Job, share: Share, whole: bool, make: MakeVectors, *, overwrite: bool
) -> tuple[int, int]:
    """Encode this worker's parts that are not there yet; return how many there are, and wanting.

    ``whole``: the file is this worker's alone; else of every ``share.count`` parts one is.

    Raises:
        EncodeError: the input cannot be read, the parts there are of something else, or one cannot
            be written.
    """
    try:
        _open_parts(job, replace=overwrite and share.count == 1)
        count = 0
        for number, texts in enumerate(_parts(read_chunks(job.source))):
            count += 1
            path = job.parts / _name(number)
            mine = whole or number % share.count == share.index
            if mine and not path.exists():
                _write(path, make(texts))
        wanting = sum(not (job.parts / _name(number)).exists() for number in range(count))
    except FileNotFoundError:
        if job.output.exists():  # another worker has joined them meanwhile
            return 0, 0
        raise
    except OSError as error:
        raise EncodeError(f"cannot write {job.parts}: {error.strerror or error}") from error
    return count, wanting


def joined(job: Job, count: int) -> Iterator[tuple[npt.NDArray[Any], Mapping[str, Any]]]:
    """Yield the parts' vectors with the kept columns, which are read from the input once more.

    Raises:
        EncodeError: the input has changed since its parts were made.
    """
    chunks = read_chunks(job.source)
    for number in range(count):
        vectors = np.load(job.parts / _name(number), mmap_mode="r", allow_pickle=False)
        start = 0
        while start < len(vectors):
            chunk = next(chunks, None)
            if chunk is None or start + len(chunk.texts) > len(vectors):
                raise EncodeError(f"{job.source.path}: changed while it was encoded; run again")
            yield np.asarray(vectors[start : start + len(chunk.texts)]), chunk.kept
            start += len(chunk.texts)


def finish(job: Job) -> None:
    """Say what the output was made from, and drop its parts."""
    write_json(job.record, job.made_from)
    shutil.rmtree(job.parts, ignore_errors=True)


def _open_parts(job: Job, *, replace: bool) -> None:
    said = job.parts / "made_from.json"
    before = read_json(said)
    if before is not None and before != job.made_from:
        if not replace:
            raise EncodeError(
                f"{job.parts}: parts made from other text or with other options; remove it, or run "
                "again with what they were made from"
            )
        shutil.rmtree(job.parts)
    job.parts.mkdir(parents=True, exist_ok=True)
    if not said.exists():
        write_json(said, job.made_from)


def _parts(chunks: Iterator[Chunk]) -> Iterator[list[str]]:
    texts: list[str] = []
    characters = 0
    for chunk in chunks:
        texts += chunk.texts
        characters += sum(map(len, chunk.texts))
        if len(texts) >= PART_TEXTS or characters >= PART_CHARACTERS:
            yield texts
            texts, characters = [], 0
    if texts:
        yield texts


def _name(number: int) -> str:
    return f"part-{number:06d}.npy"


def _write(path: Path, vectors: npt.NDArray[Any]) -> None:
    draft = path.with_name(f".{path.name}.{socket.gethostname()}.{os.getpid()}")
    try:
        with draft.open("wb") as stream:
            np.save(stream, vectors, allow_pickle=False)
            stream.flush()
            os.fsync(stream.fileno())
        draft.replace(path)
    finally:
        with contextlib.suppress(OSError):
            draft.unlink()
