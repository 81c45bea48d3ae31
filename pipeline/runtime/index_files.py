"""Write vectors with their ids as what a search engine loads: usearch, faiss, lines for Qdrant.

int8 vectors are those of one step for all dimensions (``int8_dot``), which an index compares as
they are; bits are packed eight to a byte, the first in the highest.
"""

import json
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from pipeline.errors import EncodeError, first_line
from pipeline.runtime.index_ids import IDS, Ids

HNSW_LINKS = 32
"""faiss: neighbours of a node."""


def index_precision(precision: str, to: str) -> str:
    """Return the precision that vectors have in an index of this kind.

    Raises:
        EncodeError: it takes none such.
    """
    if precision in ("int8", "uint8", "int8_dot"):
        return "int8_dot"
    if precision in ("binary", "ubinary"):
        if to == "qdrant-jsonl":
            raise EncodeError(
                f"--precision {precision}: Qdrant makes bits of float vectors itself; give "
                "--precision float32, and quantization_config.binary in the collection"
            )
        return "ubinary"
    return precision


class UsearchWriter:
    """A usearch index (HNSW); cosine, and Hamming distance of bits."""

    def __init__(self, stream: IO[bytes], output: Path) -> None:
        """Write to where ``stream`` is; ids that are no keys go beside ``output``."""
        try:
            from usearch import index
        except ImportError as error:
            raise _missing("usearch", "usearch") from error
        self._module: Any = index
        self._path = stream.name
        self._output = output
        self._index: Any = None
        self._ids = Ids()

    def write(self, vectors: npt.NDArray[Any], kept: Mapping[str, Any], /) -> None:
        """Add a block."""
        if self._index is None:
            self._index = self._make(vectors)
        keys = self._ids.take(kept, len(vectors)).astype(np.uint64)
        try:
            self._index.add(keys, np.ascontiguousarray(vectors))
        except (RuntimeError, ValueError) as error:
            self._ids.check()
            raise EncodeError(f"usearch refuses the vectors: {first_line(error)}") from error

    def finish(self, empty: npt.NDArray[Any], _keep: Sequence[str], /) -> None:
        """Write the index, and ids beside it."""
        self._ids.check()
        index = self._make(empty) if self._index is None else self._index
        index.save(self._path)
        self._ids.write_beside(self._output)

    def discard(self) -> None:
        """Let go of the index."""
        self._index = None

    def _make(self, vectors: npt.NDArray[Any]) -> Any:
        kind = vectors.dtype.name
        bits = kind == "uint8"
        return self._module.Index(
            ndim=vectors.shape[1] * (8 if bits else 1),
            metric="hamming" if bits else "cos",
            dtype={"float32": "f32", "float16": "f16", "int8": "i8", "uint8": "b1"}[kind],
        )


class FaissWriter:
    """A faiss index, exact or HNSW; dot product, and Hamming distance of bits."""

    def __init__(self, stream: IO[bytes], output: Path, kind: str) -> None:
        """Write to where ``stream`` is; ``kind`` is ``flat`` or ``hnsw``."""
        try:
            import faiss
        except ImportError as error:
            raise _missing("faiss", "faiss-cpu") from error
        self._faiss: Any = faiss
        self._path = stream.name
        self._output = output
        self._kind = kind
        self._index: Any = None
        self._ids = Ids()

    def write(self, vectors: npt.NDArray[Any], kept: Mapping[str, Any], /) -> None:
        """Add a block."""
        if self._index is None:
            self._index = self._make(vectors)
        bits = vectors.dtype == np.uint8
        block = np.ascontiguousarray(vectors if bits else vectors.astype(np.float32))
        self._index.add_with_ids(block, self._ids.take(kept, len(vectors)))

    def finish(self, empty: npt.NDArray[Any], _keep: Sequence[str], /) -> None:
        """Write the index, and ids beside it."""
        self._ids.check()
        index = self._make(empty) if self._index is None else self._index
        bits = empty.dtype == np.uint8
        write = self._faiss.write_index_binary if bits else self._faiss.write_index
        write(index, self._path)
        self._ids.write_beside(self._output)

    def discard(self) -> None:
        """Let go of the index."""
        self._index = None

    def _make(self, vectors: npt.NDArray[Any]) -> Any:
        f, columns, flat = self._faiss, vectors.shape[1], self._kind == "flat"
        if vectors.dtype == np.uint8:
            bits = 8 * columns
            plain = f.IndexBinaryFlat(bits) if flat else f.IndexBinaryHNSW(bits, HNSW_LINKS)
            return f.IndexBinaryIDMap2(plain)
        ip = f.METRIC_INNER_PRODUCT
        if vectors.dtype == np.float32:
            inner = f.IndexFlatIP(columns) if flat else f.IndexHNSWFlat(columns, HNSW_LINKS, ip)
            return f.IndexIDMap2(inner)
        quantizer = f.ScalarQuantizer
        half = vectors.dtype == np.float16
        stored = quantizer.QT_fp16 if half else quantizer.QT_8bit_direct_signed
        if flat:
            return f.IndexIDMap2(f.IndexScalarQuantizer(columns, stored, ip))
        graph = f.IndexHNSWSQ(columns, stored, HNSW_LINKS, ip)
        graph.is_trained = True  # neither of the two types has anything to learn
        return f.IndexIDMap2(graph)


class QdrantWriter:
    """Lines of Qdrant's points: ``id``, ``vector`` and, of other kept columns, ``payload``.

    A point's id is a whole number or a UUID; of other text it is a UUID made of it (version 5), and
    the text stands in the payload. int8 levels are 0 to 255 around 128, for a collection of
    datatype uint8 and distance Euclid, where the shift cancels.
    """

    def __init__(self, stream: IO[bytes]) -> None:
        """Start at the stream's beginning."""
        self._stream = stream
        self._ids = Ids()

    def write(self, vectors: npt.NDArray[Any], kept: Mapping[str, Any], /) -> None:
        """Append a block."""
        start = len(self._ids.texts)
        keys: list[Any] = self._ids.take(kept, len(vectors)).tolist()
        names = self._ids.texts[start:]
        others = {
            name: values.to_pylist() if hasattr(values, "to_pylist") else values
            for name, values in kept.items()
            if name != IDS
        }
        levels = vectors.dtype == np.int8
        numbers = vectors.astype(np.int16) + 128 if levels else vectors
        for row, vector in enumerate(numbers.tolist()):
            payload = {name: values[row] for name, values in others.items()}
            point: dict[str, Any] = {"id": keys[row], "vector": vector}
            if names:
                point["id"] = str(uuid.uuid5(uuid.NAMESPACE_OID, names[row]))
                payload = {IDS: names[row]} | payload
            if payload:
                point["payload"] = payload
            try:
                line = json.dumps(point, ensure_ascii=False, allow_nan=False)
            except (TypeError, ValueError) as error:
                raise EncodeError(f"a kept column does not go into JSON: {error}") from error
            self._stream.write(line.encode() + b"\n")

    def finish(self, _empty: npt.NDArray[Any], _keep: Sequence[str], /) -> None:
        """Look at the ids once more."""
        self._ids.check()

    def discard(self) -> None:
        """Nothing is held."""


def _missing(name: str, package: str) -> EncodeError:
    return EncodeError(
        f"--to {name} needs {package}, which is not installed: pip install '{package}' "
        "(extra: search)"
    )
