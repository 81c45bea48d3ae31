"""Find the linear GEMMs of a graph: activations times a constant matrix.

Matched by structure, not by name: a MatMul whose second input is a constant ``[in, out]`` matrix,
with the constant bias Add behind it where there is one. Attention's batch GEMMs (two computed
inputs) and embedding lookups are not linear GEMMs.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from pipeline.graph import constant

FloatArray = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True)
class Gemm:
    """One MatMul with its constant weight and, where there is one, its bias Add."""

    name: str
    node: ir.Node
    bias: ir.Node | None

    @property
    def weight(self) -> FloatArray:
        """The weight as it stands in the graph now, ``[in, out]``."""
        array = constant(self.node.inputs[1])
        assert array is not None
        return array.astype(np.float32)

    @property
    def bias_array(self) -> FloatArray:
        """The bias as it stands in the graph now, ``[out]``."""
        assert self.bias is not None
        array = constant(self.bias.inputs[self.bias_index])
        assert array is not None
        return array.astype(np.float32)

    @property
    def bias_index(self) -> int:
        """Which input of the bias Add is the constant one."""
        assert self.bias is not None
        return 0 if constant(self.bias.inputs[0]) is not None else 1

    @property
    def output(self) -> ir.Value:
        """What the GEMM gives with its bias added."""
        return (self.bias or self.node).outputs[0]


@dataclass(frozen=True, slots=True, kw_only=True)
class GemmGroup:
    """The GEMMs that read one tensor and so share its scale (query, key and value, say)."""

    activation: ir.Value
    gemms: tuple[Gemm, ...]

    @property
    def name(self) -> str:
        """The tensor's name."""
        return self.activation.name or ""

    @property
    def channels(self) -> int:
        """Input channels of every GEMM of the group."""
        return int(self.gemms[0].weight.shape[0])


def find_gemm_groups(graph: ir.Graph) -> list[GemmGroup]:
    """Return the graph's linear GEMMs, grouped by the tensor they read, in graph order.

    Gemm ops are not matched: exporters emit them for 2-D inputs only (a Dense module behind
    pooling), where one vector a sentence is not worth quantizing.
    """
    groups: dict[ir.Value, list[Gemm]] = {}
    for node in graph:
        if node.op_type != "MatMul" or node.domain != "":
            continue
        activation, weight = node.inputs
        array = constant(weight)
        if (
            activation is None
            or array is None
            or array.ndim != 2
            or constant(activation) is not None
        ):
            continue
        bias = _bias_of(node)
        name = _name(bias, node)
        groups.setdefault(activation, []).append(Gemm(name=name, node=node, bias=bias))
    return [GemmGroup(activation=a, gemms=tuple(g)) for a, g in groups.items()]


def _bias_of(node: ir.Node) -> ir.Node | None:
    uses = list(node.outputs[0].uses())
    if len(uses) != 1 or uses[0].node.op_type != "Add":
        return None
    add = uses[0].node
    other = constant(add.inputs[1 - uses[0].idx])
    return add if other is not None and other.ndim == 1 else None


def _name(bias: ir.Node | None, node: ir.Node) -> str:
    """Name a GEMM after its parameters where the exporter kept their names."""
    for candidate in (*(bias.inputs if bias else ()), node.inputs[1]):
        if candidate is not None and candidate.name and candidate.const_value is not None:
            stem = candidate.name.removesuffix(".bias").removesuffix(".weight")
            if stem != candidate.name:
                return stem
    return node.name or node.outputs[0].name or ""
