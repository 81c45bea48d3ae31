"""What of a graph really is in int8, read from the graph and not from what its maker says.

A linear GEMM multiplies activations with a constant matrix; it counts as int8 where both reach it
as 8-bit integers (through Q/DQ or FakeQuantize) or where its op is an integer op. An int8 weight
that is turned back into floats before the multiplication only makes the file smaller.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import onnx

_SHAPE_OPS = {"Reshape", "Transpose", "Squeeze", "Unsqueeze", "Flatten", "Identity", "Cast"}
_MATMULS = {"MatMul": 1, "Gemm": 1, "FusedMatMul": 1, "FusedGemm": 1}
_INTEGER = {"MatMulInteger": 1, "MatMulIntegerToFloat": 1, "DynamicQuantizeMatMul": 1}
_QLINEAR = {"QLinearMatMul": 3, "QGemm": 3}
_WEIGHT_INDEX = {**_MATMULS, **_INTEGER, **_QLINEAR}
_QUANTIZERS = {"QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear"}
_DYNAMIC = {"DynamicQuantizeLinear", "DynamicQuantizeMatMul"}
_EIGHT_BITS = {onnx.TensorProto.INT8, onnx.TensorProto.UINT8}


@dataclass(frozen=True, slots=True, kw_only=True)
class Gemms:
    """Counts of one graph.

    ``linear`` GEMMs have a constant weight, ``int8`` of them compute in int8 and ``weight_only``
    of them have int8 weights but float arithmetic. ``attention`` counts int8 GEMMs of two computed
    inputs, ``embeddings`` int8 lookup tables, ``other`` the quantized activations that further ops
    read, by type of op. ``static`` is None where no activation is quantized.
    """

    linear: int
    int8: int
    weight_only: int
    attention: int
    embeddings: int
    other: dict[str, int]
    static: bool | None


def count_gemms(path: Path) -> Gemms:
    """Count in an ONNX graph (``.onnx``) or in OpenVINO's (``.xml``)."""
    if path.suffix == ".xml":
        return _count_openvino(ElementTree.parse(path).getroot())
    return count_onnx(onnx.load(path))


class _Graph:
    """An ONNX graph's values: which node makes them, which are constant, which are quantized."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        self.nodes = list(graph.node)
        self._producer = {name: node for node in graph.node for name in node.output}
        self._constants = {tensor.name: tensor for tensor in graph.initializer}
        for node in graph.node:
            for attribute in node.attribute if node.op_type == "Constant" else ():
                self._constants[node.output[0]] = attribute.t

    def is_constant(self, name: str) -> bool:
        """Whether a value follows from initializers alone."""
        if name in self._constants or not name:
            return True
        node = self._producer.get(name)
        return node is not None and len(node.input) > 0 and all(map(self.is_constant, node.input))

    def leaves(self, name: str) -> list[onnx.TensorProto]:
        """Return the initializers that a constant value is made of."""
        if name in self._constants:
            return [self._constants[name]]
        node = self._producer.get(name)
        inputs = node.input if node is not None else []
        return [leaf for value in inputs for leaf in self.leaves(value)]

    def origin(self, name: str) -> onnx.NodeProto | None:
        """Return the node that computes a value, past ops that only move it."""
        node = self._producer.get(name)
        while node is not None and node.op_type in _SHAPE_OPS:
            node = self._producer.get(node.input[0])
        return node

    def is_int8_constant(self, name: str) -> bool:
        """Whether a constant is, or is dequantized from, a matrix of 8-bit integers.

        The float matrix in front of a QuantizeLinear counts as well: runtimes fold it.
        """
        if any(leaf.data_type in _EIGHT_BITS and len(leaf.dims) >= 2 for leaf in self.leaves(name)):
            return True
        return self.is_dequantized(name)

    def is_dequantized(self, name: str) -> bool:
        """Whether a value comes out of a DequantizeLinear from 8-bit integers."""
        node = self.origin(name)
        if node is None or node.op_type != "DequantizeLinear":
            return False
        points = self.leaves(node.input[2]) if len(node.input) > 2 else []
        return all(point.data_type in _EIGHT_BITS for point in points)

    def is_quantized_activation(self, name: str) -> bool:
        """Whether a value is computed, rounded to 8 bits and dequantized."""
        node = self.origin(name)
        if node is None or self.is_constant(name) or not self.is_dequantized(name):
            return False
        source = self.origin(node.input[0])
        return source is not None and source.op_type == "QuantizeLinear"


def count_onnx(model: onnx.ModelProto) -> Gemms:
    """Count in an ONNX graph."""
    graph = _Graph(model.graph)
    seen: Counter[str] = Counter()
    other: Counter[str] = Counter()
    dynamic = any(node.op_type in _DYNAMIC for node in graph.nodes)
    for node in graph.nodes:
        if node.op_type in _WEIGHT_INDEX:
            seen.update(_classify(graph, node))
        elif node.op_type == "Gather" and graph.is_constant(node.input[0]):
            seen["embeddings"] += graph.is_int8_constant(node.input[0])
        elif node.op_type not in _SHAPE_OPS | _QUANTIZERS:
            other[node.op_type] += sum(map(graph.is_quantized_activation, node.input))
    return _total(seen, other, dynamic=dynamic)


def _total(seen: Counter[str], other: Counter[str], *, dynamic: bool) -> Gemms:
    activations = seen["int8"] + seen["attention"] + sum(other.values()) > 0
    return Gemms(
        linear=seen["linear"],
        int8=seen["int8"],
        weight_only=seen["weight_only"],
        attention=seen["attention"],
        embeddings=seen["embeddings"],
        other={kind: n for kind, n in sorted(other.items()) if n},
        static=not dynamic if activations else None,
    )


def _classify(graph: _Graph, node: onnx.NodeProto) -> Iterable[str]:
    """Return the counts that one GEMM adds to."""
    weight = node.input[_WEIGHT_INDEX[node.op_type]]
    if node.op_type in _MATMULS:
        integer = graph.is_dequantized(node.input[0]) and graph.is_dequantized(weight)
    else:
        integer = True
    if not graph.is_constant(weight):
        return ["attention"] if integer else []
    if integer:
        return ["linear", "int8"]
    return ["linear", "weight_only"] if graph.is_int8_constant(weight) else ["linear"]


def _count_openvino(root: ElementTree.Element) -> Gemms:
    """Count in OpenVINO's IR, where FakeQuantize stands for Q/DQ and int8 constants for weights."""
    layers = {layer.get("id"): layer for layer in root.findall("./layers/layer")}
    inputs: dict[Any, list[Any]] = {key: [] for key in layers}
    for edge in sorted(root.findall("./edges/edge"), key=lambda e: int(e.get("to-port", "0"))):
        inputs[edge.get("to-layer")].append(edge.get("from-layer"))

    def kind(key: Any) -> str:
        return layers[key].get("type", "")

    def constants(key: Any) -> list[Any] | None:
        """Return the Const layers a value is made of, None where it is computed."""
        if kind(key) == "Const":
            return [key]
        made = [constants(k) for k in inputs[key]]
        if not made or any(m is None for m in made):
            return None
        return [c for m in made if m is not None for c in m]

    def int8_constant(key: Any) -> bool:
        data = [layers[c].find("data") for c in constants(key) or []]
        types = {d.get("element_type") for d in data if d is not None and "," in d.get("shape", "")}
        return bool(types & {"i8", "u8"}) or quantized(key)

    def quantized(key: Any) -> bool:
        while kind(key) in _SHAPE_OPS:
            key = inputs[key][0]
        return kind(key) == "FakeQuantize"

    seen: Counter[str] = Counter()
    other: Counter[str] = Counter()
    for key in layers:
        reads = inputs[key]
        if kind(key) == "MatMul" and constants(reads[1]) is not None:
            seen["linear"] += 1
            if int8_constant(reads[1]):
                seen["int8" if quantized(reads[0]) else "weight_only"] += 1
        elif kind(key) in ("MatMul", "ScaledDotProductAttention"):
            # One fused attention is two GEMMs, each int8 where what it reads is.
            seen["attention"] += bool(quantized(reads[0]) and quantized(reads[1]))
            seen["attention"] += kind(key) != "MatMul" and quantized(reads[2])
        elif kind(key) == "Gather" and constants(reads[0]) is not None:
            seen["embeddings"] += int8_constant(reads[0])
        elif kind(key) not in _SHAPE_OPS:
            other[kind(key)] += sum(map(quantized, reads))
    return _total(seen, other, dynamic=False)
