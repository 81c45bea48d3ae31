"""Find the linear GEMMs of a graph: activations times a constant matrix.

Matched by structure, not by name: a MatMul of token tensors whose second input is a constant
``[in, out]`` matrix, with the constant bias Add behind it where there is one. Other forms of the
same are brought to this one first (``canonicalize_gemms``, part of export). Attention's batch GEMMs
(two computed inputs) and embedding lookups are not linear GEMMs.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import onnx_ir as ir

from pipeline.graph.files import add_initializer, constant, insert_before
from pipeline.vectors import FloatArray


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

    What reads a 2-D tensor (a Dense module behind pooling, a MatMul or a Gemm op) is left out: one
    vector a sentence is not worth quantizing.
    """
    groups: dict[ir.Value, list[Gemm]] = {}
    names: Counter[str] = Counter()  # layers may share their parameters, and so their names
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
            or (activation.shape is not None and len(activation.shape) < 3)
        ):
            continue
        bias = _bias_of(node)
        name = _name(bias, node)
        names[name] += 1
        if names[name] > 1:
            name = f"{name}.{names[name]}"
        groups.setdefault(activation, []).append(Gemm(name=name, node=node, bias=bias))
    return [GemmGroup(activation=a, gemms=tuple(g)) for a, g in groups.items()]


def canonicalize_gemms(graph: ir.Graph) -> None:
    """Write linear GEMMs as MatMul of a constant ``[in, out]`` weight and, of a bias, Add.

    The other forms: a weight behind a Transpose, and a Gemm op on a token tensor that a Reshape has
    made 2-D, its heads joined in the same step or before (GPT-2's layers).
    """
    for node in list(graph):
        if node.op_type == "MatMul":
            _transpose_weight(graph, node)
        elif node.op_type == "Gemm":
            _expand_gemm(graph, node)


def _transpose_weight(graph: ir.Graph, node: ir.Node) -> None:
    transpose = node.inputs[1].producer() if node.inputs[1] is not None else None
    if transpose is None or transpose.op_type != "Transpose":
        return
    weight, array = transpose.inputs[0], constant(transpose.inputs[0])
    if weight is None or array is None or array.ndim != 2:
        return
    name = f"{weight.name}.transposed"
    if name not in graph.initializers:
        add_initializer(graph, name, array.T)
    node.replace_input_with(1, graph.initializers[name])


def _expand_gemm(graph: ir.Graph, node: ir.Node) -> None:
    """Move the Reshape in front of a Gemm op behind the MatMul and Add that replace it."""
    flat, weight, *rest = node.inputs
    reshape = flat.producer() if flat is not None else None
    tokens = reshape.inputs[0] if reshape is not None and reshape.op_type == "Reshape" else None
    array, bias = constant(weight), constant(rest[0]) if rest else None
    scalars = [node.attributes.get(name) for name in ("alpha", "beta")]
    flags = [node.attributes.get(name) for name in ("transA", "transB")]
    trans_a, trans_b = (flag is not None and flag.as_int() == 1 for flag in flags)
    if tokens is None or tokens.shape is None or weight is None or array is None or trans_a:
        return
    matrix = array.T if trans_b else array
    joined = _joined_dims(tokens.shape, len(matrix))
    if (
        joined is None
        or any(scalar is not None and scalar.as_float() != 1 for scalar in scalars)
        or (rest and (bias is None or bias.shape != (matrix.shape[1],)))
    ):
        return
    name, output = f"{node.name or node.outputs[0].name}", node.outputs[0]
    kept, width = list(tokens.shape)[:-joined], matrix.shape[1]
    wide = ir.Shape([*kept, width])
    steps = [("matmul", "MatMul", add_initializer(graph, f"{name}.matrix", matrix), wide)]
    if joined > 1:
        sizes = add_initializer(graph, f"{name}.heads", np.array([*[0] * len(kept), len(matrix)]))
        steps.insert(0, ("join", "Reshape", sizes, ir.Shape([*kept, len(matrix)])))
    if rest and rest[0] is not None:
        steps.append(("add", "Add", rest[0], wide))
    flat = add_initializer(graph, f"{name}.flat", np.array([-1, width]))
    steps.append(("flatten", "Reshape", flat, ir.Shape([None, width])))
    made, value = [], tokens
    for suffix, operator, other, shape in steps:
        made.append(ir.node(operator, [value, other], name=f"{name}.{suffix}"))
        value = made[-1].outputs[0]
        value.name, value.type, value.shape = made[-1].name, output.type, shape
    value.shape = output.shape
    insert_before(graph, node, made)
    value.name, output.name = output.name, None
    output.replace_all_uses_with(value, replace_graph_outputs=True)
    graph.remove(node, safe=True)


def _joined_dims(shape: ir.Shape, channels: int) -> int | None:
    """Return how many of a token tensor's last dimensions make up a GEMM's input channels."""
    size = 1
    for count, dim in enumerate(reversed(list(shape)[2:]), 1):
        if not isinstance(dim, int):
            return None
        size *= dim
        if size >= channels:
            return count if size == channels else None
    return None


def add_missing_biases(graph: ir.Graph, groups: Sequence[GemmGroup]) -> list[GemmGroup]:
    """Give every GEMM a bias, of zeros where it has none: shift and bias correction go there."""
    return [
        replace(group, gemms=tuple(_with_bias(graph, gemm) for gemm in group.gemms))
        for group in groups
    ]


def _with_bias(graph: ir.Graph, gemm: Gemm) -> Gemm:
    if gemm.bias is not None:
        return gemm
    product, name = gemm.node.outputs[0], f"{gemm.name}.zero_bias"
    zeros = add_initializer(graph, name, np.zeros(gemm.weight.shape[1], np.float32))
    add = ir.node("Add", [product, zeros], name=f"{name}.add")
    biased = add.outputs[0]
    biased.name, biased.type, biased.shape = product.name, product.type, product.shape
    product.name = f"{gemm.name}.unbiased"
    product.replace_all_uses_with(biased, replace_graph_outputs=True)
    add.replace_input_with(0, product)
    graph.insert_after(gemm.node, add)
    return replace(gemm, bias=add)


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
