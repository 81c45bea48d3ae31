"""Write the engines' graph without a second copy of the weights that ``model.onnx`` holds.

No runtime follows an external tensor out of its graph's directory (ONNX Runtime, OpenVINO, TensorRT
and ``onnx`` all refuse ``..``), and ``model.onnx`` has to stay one file for the servers that load
it. But all of them read a tensor at any offset of any file. So ``tensorrt/model.onnx`` names
``model.onnx.data`` beside it, which is ``model.onnx`` itself once more, as a hard link: it takes no
room, a registry stores it once, and a copy without hard links costs what two graphs would.
"""

import hashlib
import logging
import mmap
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import onnx_ir as ir

from pipeline.contracts import Graphs, OnnxModel
from pipeline.files import link_or_copy
from pipeline.graph.files import LARGEST_FILE, load_graph, save_graph
from pipeline.graph.protobuf import entries

log = logging.getLogger(__name__)

LEAST_BYTES = 1024
"""Smaller tensors stay in the graph."""

LEAST_SHARE = 0.8
"""How much of ``model.onnx`` the engines' graph has to use: otherwise a copy without hard links
would be larger than with two graphs."""

Places = dict[bytes, tuple[int, int]]


def share_weights(graphs: Graphs, out_dir: Path) -> Graphs:
    """Write the engines' graph to ``tensorrt/model.onnx``, as the bundle holds it.

    Tensors whose bytes are in ``model.onnx`` too are read from there; where they are not most of
    it, the graph is one file.
    """
    model, path = graphs.buildable, out_dir / "tensorrt" / "model.onnx"
    path.parent.mkdir(parents=True)
    graph = load_graph(model)
    shared = _refer(graph, graphs.portable, path)
    log.info("tensorrt/model.onnx shares %.1f MiB with model.onnx", shared / 2**20)
    saved = save_graph(graph, path, precision=model.precision, source_sha256=model.sha256)
    return replace(graphs, buildable=saved)


def _refer(graph: ir.Model, portable: OnnxModel, path: Path) -> int:
    """Make a graph that goes to ``path`` read what ``portable`` holds too; return the bytes."""
    source, places = _places(portable)
    twins, alone = [], 0
    for value in graph.graph.initializers.values():
        tensor = value.const_value
        if tensor is None:
            continue
        content = tensor.tobytes() if tensor.nbytes >= LEAST_BYTES else b""
        place = places.get(hashlib.sha256(content).digest())
        if place is None:
            alone += tensor.nbytes
        else:
            twins.append((value, tensor, place))
    shared = sum(size for _, _, (_, size) in twins)
    if shared < LEAST_SHARE * source.stat().st_size or alone > LARGEST_FILE:
        return 0
    data = path.with_name(f"{path.name}.data")
    link_or_copy(source, data)
    for value, tensor, (offset, size) in twins:
        value.const_value = ir.ExternalTensor(
            data.name,
            offset,
            size,
            tensor.dtype,
            shape=ir.Shape(tensor.shape.numpy()),
            name=str(value.name),
            base_dir=path.parent,
        )
    return shared


def _places(model: OnnxModel) -> tuple[Path, Places]:
    """Return the file that holds a graph's weights, and where each is, by its sha256."""
    data = model.path.with_name(f"{model.path.name}.data")
    path = data if data.exists() else model.path
    with path.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as file:
        ranges = _external_ranges(model.path) if path == data else _raw_ranges(file)
        return path, {
            hashlib.sha256(file[offset : offset + size]).digest(): (offset, size)
            for offset, size in ranges
            if size >= LEAST_BYTES
        }


def _external_ranges(path: Path) -> Iterator[tuple[int, int]]:
    for value in ir.load(path).graph.initializers.values():
        tensor = value.const_value
        if isinstance(tensor, ir.ExternalTensor):
            yield int(tensor.offset or 0), int(tensor.length or tensor.nbytes)


def _raw_ranges(file: mmap.mmap) -> Iterator[tuple[int, int]]:
    """Yield offset and size of every initializer's ``raw_data`` in an ONNX file.

    ``ModelProto.graph`` is field 7, ``GraphProto.initializer`` 5, ``TensorProto.raw_data`` 9.
    """
    for graph in _fields(file, (0, len(file)), 7):
        for tensor in _fields(file, graph, 5):
            for start, end in _fields(file, tensor, 9):
                yield start, end - start


def _fields(file: mmap.mmap, inside: tuple[int, int], wanted: int) -> Iterator[tuple[int, int]]:
    return ((start, end) for number, start, end in entries(file, *inside) if number == wanted)
