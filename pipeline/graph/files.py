"""Read, check and write ONNX graphs; the graph contract in code.

Inputs int64 ``input_ids``, ``attention_mask`` and, where the exported model takes it,
``token_type_ids``, all ``[batch, sequence]``; one output, fp32 ``sentence_embedding``
``[batch, dim]``.
"""

import hashlib
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from pipeline.config import NumericType
from pipeline.contracts import OnnxModel, TensorSpec, sha256_file

LARGEST_FILE = 1_900_000_000
"""Protobuf ends at 2 GiB; what is larger goes to a file of its own."""


def load_graph(model: OnnxModel) -> ir.Model:
    """Read a model into memory, initializers included, so that its file may be replaced."""
    graph = ir.load(model.path)
    for value in graph.graph.initializers.values():
        tensor = value.const_value
        if isinstance(tensor, ir.ExternalTensor):
            value.const_value = _read(tensor, model.path)
    return graph


def _read(tensor: ir.ExternalTensor, path: Path) -> ir.TensorProtocol:
    """Return an external tensor of our own graph; onnx-ir would refuse a file with hard links."""
    assert isinstance(tensor.shape, ir.Shape)
    array = np.fromfile(
        path.parent / tensor.location,
        dtype=tensor.dtype.numpy(),
        count=math.prod(tensor.shape.numpy()),
        offset=tensor.offset or 0,
    )
    return ir.tensor(array.reshape(tensor.shape.numpy()), dtype=tensor.dtype, name=tensor.name)


def save_graph(
    graph: ir.Model, path: Path, *, precision: NumericType, source_sha256: str
) -> OnnxModel:
    """Write a graph and describe it.

    One file up to ONNX's 2 GiB protobuf limit; larger initializers go to ``<name>.data``
    beside it, and the sha256 covers both. External tensors stay where they are.
    """
    sizes = (
        value.const_value.nbytes
        for value in graph.graph.initializers.values()
        if value.const_value is not None and not isinstance(value.const_value, ir.ExternalTensor)
    )
    external = f"{path.name}.data" if sum(sizes) > LARGEST_FILE else None
    ir.save(graph, path, external_data=external)
    return OnnxModel(
        path=path,
        sha256=model_sha256(path),
        precision=precision,
        inputs=tuple(_spec(value) for value in graph.graph.inputs),
        outputs=tuple(_spec(value) for value in graph.graph.outputs),
        source_sha256=source_sha256,
    )


def model_sha256(path: Path) -> str:
    """Return the sha256 of a model file, or of its and its external data's together."""
    data = path.with_name(f"{path.name}.data")
    if not data.exists():
        return sha256_file(path)
    return hashlib.sha256(f"{sha256_file(path)} {sha256_file(data)}".encode()).hexdigest()


def _spec(value: ir.Value) -> TensorSpec:
    dims = value.shape if value.shape is not None else ()
    return TensorSpec(
        name=value.name or "",
        dtype=value.dtype.name.lower() if value.dtype is not None else "unknown",
        shape=tuple(d if isinstance(d, int) else str(d.value) for d in dims),
    )


def constant(value: ir.Value | None) -> npt.NDArray[Any] | None:
    """Return the array behind an initializer, or None where the value is computed."""
    if value is None or value.const_value is None:
        return None
    return value.const_value.numpy()


def target_sizes(node: ir.Node) -> list[int | None] | None:
    """Return a Reshape's target, None for each size known at run time only."""
    target = node.inputs[1]
    concat = target.producer() if target is not None else None
    if constant(target) is not None:
        parts: Sequence[ir.Value | None] = [target]
    elif concat is not None and concat.op_type == "Concat":
        parts = concat.inputs
    else:
        return None
    sizes: list[int | None] = []
    for part in parts:
        array = constant(part)
        if array is not None:
            sizes += [None if size == -1 else int(size) for size in array]
        elif part is not None and part.shape is not None and list(part.shape) == [1]:
            sizes.append(None)
        else:
            return None
    shape = node.outputs[0].shape
    dims = shape if shape is not None else [None] * len(sizes)
    known = [dim if isinstance(dim, int) else None for dim in dims]
    return [known[i] if size is None else size for i, size in enumerate(sizes)]


def add_initializer(graph: ir.Graph, name: str, array: npt.NDArray[Any]) -> ir.Value:
    """Register an array under a name that must be new, and return the value."""
    if name in graph.initializers:
        raise ValueError(f"initializer {name} exists")
    tensor = ir.tensor(np.ascontiguousarray(array) if array.ndim else array, name=name)
    value = ir.Value(
        name=name, shape=ir.Shape(array.shape), type=ir.TensorType(tensor.dtype), const_value=tensor
    )
    graph.register_initializer(value)
    return value


def insert_before(graph: ir.Graph, anchor: ir.Node, nodes: Iterable[ir.Node]) -> None:
    """Insert nodes in order directly before ``anchor``."""
    for node in nodes:
        graph.insert_before(anchor, node)


def prune(graph: ir.Model) -> None:
    """Drop nodes and initializers that nothing uses."""
    from onnx_ir.passes.common import RemoveUnusedNodesPass

    RemoveUnusedNodesPass()(graph)
