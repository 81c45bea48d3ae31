"""Move outliers where they hurt less, without changing the function of the graph.

Each channel of the tensor that a group of GEMMs reads is shifted and divided, ``(x - z) / s``, and
the GEMMs' weights and biases undo it:

- division: Xiao et al., "SmoothQuant: Accurate and Efficient Post-Training Quantization for Large
  Language Models", ICML 2023 (arXiv:2211.10438), eq. 4;
- shift: Wei et al., "Outlier Suppression+: Accurate quantization of large language models by
  equivalent and effective shifting and scaling", EMNLP 2023 (arXiv:2304.09145), eq. 4.

Both are folded where that is exact:

- behind LayerNormalization: into its scale and bias; consumers that are no GEMM of the group (the
  residual branch) get it undone, one Mul, the shift going into the bias of the GEMM they add;
- behind attention (probabilities times value): into the value projection, whose output channels
  pass through unmixed, the probabilities of a token summing to 1;
- elsewhere (behind GELU): one explicit Mul and Add, which TensorRT fuses with what is before.
"""

from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from pipeline.graph import add_initializer, constant
from pipeline.quant.gemms import FloatArray, Gemm, GemmGroup
from pipeline.quant.statistics import Activation


class Fold(StrEnum):
    """Where a group's shift and factors went."""

    layer_norm = "layer_norm"
    value_projection = "value_projection"
    explicit = "explicit"


def smoothing_factors(
    magnitude: FloatArray, weights: Sequence[FloatArray], alpha: float
) -> FloatArray:
    """Return what to divide each activation channel by, ``[channels]``, geometric mean 1.

    ``magnitude`` is each channel's largest absolute activation, ``weights`` the ``[in, out]``
    matrices that read it, ``alpha`` how much of the difficulty moves to the weights.
    """
    floor = np.float32(1e-5)
    activation = np.maximum(magnitude, floor)
    weight = np.maximum(np.max([np.abs(w).max(axis=1) for w in weights], axis=0), floor)
    factors = activation**alpha / weight ** (1 - alpha)
    result: FloatArray = (factors / np.exp(np.log(factors).mean())).astype(np.float32)
    return result


def midrange(observed: Activation) -> FloatArray:
    """Return the shift that centres each channel's range on 0, ``[channels]``."""
    return ((observed.low + observed.high) / 2).astype(np.float32)


class Smoother:
    """Smooths the groups of one graph in place."""

    def __init__(self, graph: ir.Graph, groups: Sequence[GemmGroup]) -> None:
        """Remember which GEMM gives which tensor."""
        self._graph = graph
        self._gemms: Mapping[ir.Value, Gemm] = {
            g.output: g for group in groups for g in group.gemms
        }

    def fold_of(self, group: GemmGroup) -> Fold:
        """Return where this group's shift and factors would go."""
        producer = group.activation.producer()
        if producer is not None and producer.op_type == "LayerNormalization":
            return Fold.layer_norm
        return Fold.explicit if self._value_projection(group) is None else Fold.value_projection

    def can_shift(self, group: GemmGroup) -> bool:
        """Whether every bias that would take up the shift is there."""
        if any(gemm.bias is None for gemm in group.gemms):
            return False
        match self.fold_of(group):
            case Fold.layer_norm:
                producer = group.activation.producer()
                return producer is not None and len(producer.inputs) == 3
            case Fold.value_projection:
                value = self._value_projection(group)
                return value is not None and value.bias is not None
            case Fold.explicit:
                return True

    def smooth(self, group: GemmGroup, shift: FloatArray, factors: FloatArray) -> GemmGroup:
        """Apply ``(x - shift) / factors``, undo it in the GEMMs; return the group as it is now."""
        for gemm in group.gemms:
            if shift.any():
                add_to_bias(self._graph, gemm, shift @ gemm.weight)
            set_weight(self._graph, gemm, gemm.weight * factors[:, None])
        match self.fold_of(group):
            case Fold.layer_norm:
                self._fold_into_layer_norm(group, shift, factors)
            case Fold.value_projection:
                value = self._value_projection(group)
                assert value is not None
                set_weight(self._graph, value, value.weight / factors)
                if value.bias is not None:
                    set_bias(self._graph, value, (value.bias_array - shift) / factors)
            case Fold.explicit:
                return self._apply_explicitly(group, shift, factors)
        return group

    def _fold_into_layer_norm(
        self, group: GemmGroup, shift: FloatArray, factors: FloatArray
    ) -> None:
        norm, name = group.activation.producer(), group.name
        assert norm is not None
        inside = {gemm.node for gemm in group.gemms}
        outside = [use for use in group.activation.uses() if use.node not in inside]
        _replace(self._graph, norm, 1, _array(norm.inputs[1]) / factors)
        if len(norm.inputs) == 3:
            _replace(self._graph, norm, 2, (_array(norm.inputs[2]) - shift) / factors)
        if not outside and not group.activation.is_graph_output():
            return
        factor = add_initializer(self._graph, f"{name}.smoothing", factors)
        restored = _node("Mul", [group.activation, factor], f"{name}.unsmooth")
        self._graph.insert_after(norm, restored)
        shifted: ir.Node | None = None
        for use in outside:
            value = restored.outputs[0]
            partner = self._added_gemm(use.node, use.idx) if shift.any() else None
            if partner is not None:
                add_to_bias(self._graph, partner, shift)
            elif shift.any():
                if shifted is None:
                    offset = add_initializer(self._graph, f"{name}.shift", shift)
                    shifted = _node("Add", [value, offset], f"{name}.unshift")
                    self._graph.insert_after(restored, shifted)
                value = shifted.outputs[0]
            use.node.replace_input_with(use.idx, value)

    def _added_gemm(self, node: ir.Node, index: int) -> Gemm | None:
        """Return the biased GEMM whose output, used nowhere else, this use is added to."""
        if node.op_type != "Add":
            return None
        other = node.inputs[1 - index]
        gemm = self._gemms.get(other) if other is not None else None
        if gemm is None or gemm.bias is None or len(gemm.output.uses()) != 1:
            return None
        return gemm

    def _apply_explicitly(
        self, group: GemmGroup, shift: FloatArray, factors: FloatArray
    ) -> GemmGroup:
        name, first = group.name, group.gemms[0].node
        inverse = add_initializer(self._graph, f"{name}.smoothing", 1 / factors)
        smoothed = _node("Mul", [group.activation, inverse], f"{name}.smooth")
        self._graph.insert_before(first, smoothed)
        if shift.any():
            offset = add_initializer(self._graph, f"{name}.shift", -shift / factors)
            smoothed = _node("Add", [smoothed.outputs[0], offset], f"{name}.unshifted")
            self._graph.insert_before(first, smoothed)
        for gemm in group.gemms:
            gemm.node.replace_input_with(0, smoothed.outputs[0])
        return GemmGroup(activation=smoothed.outputs[0], gemms=group.gemms)

    def _value_projection(self, group: GemmGroup) -> Gemm | None:
        """Return the GEMM whose output channels are this tensor's, mixed over tokens only.

        Walks ``probabilities @ value`` back through the head split: Reshape [B,S,H,D] and
        Transpose (0,2,1,3) on the way in, the same Transpose and a Reshape to [B,S,C] on the way
        out.
        """
        merged = _through(_through(group.activation, "Reshape"), "Transpose", (0, 2, 1, 3))
        matmul = merged.producer() if merged is not None else None
        if matmul is None or matmul.op_type != "MatMul" or constant(matmul.inputs[1]) is not None:
            return None
        probabilities = matmul.inputs[0].producer() if matmul.inputs[0] is not None else None
        if probabilities is None or probabilities.op_type != "Softmax":
            return None
        split = _through(_through(matmul.inputs[1], "Transpose", (0, 2, 1, 3)), "Reshape")
        gemm = self._gemms.get(split) if split is not None else None
        if gemm is None or gemm.weight.shape[1] != group.channels or len(gemm.output.uses()) != 1:
            return None
        return gemm


def _through(
    value: ir.Value | None, op_type: str, perm: tuple[int, ...] | None = None
) -> ir.Value | None:
    """Return the first input of the value's producer where that is such a node, used once."""
    node = value.producer() if value is not None else None
    if value is None or node is None or node.op_type != op_type or len(value.uses()) != 1:
        return None
    if perm is not None and tuple(node.attributes["perm"].as_ints()) != perm:
        return None
    return node.inputs[0]


def _node(op_type: str, inputs: Sequence[ir.Value], name: str) -> ir.Node:
    node = ir.node(op_type, inputs, name=name)
    output = node.outputs[0]
    output.name, output.type, output.shape = f"{name}ed", inputs[0].type, inputs[0].shape
    return node


def _array(value: ir.Value | None) -> FloatArray:
    array = constant(value)
    assert array is not None
    return array.astype(np.float32)


def set_weight(graph: ir.Graph, gemm: Gemm, weight: FloatArray) -> None:
    """Give a GEMM another ``[in, out]`` weight."""
    _replace(graph, gemm.node, 1, weight)


def set_bias(graph: ir.Graph, gemm: Gemm, bias: FloatArray) -> None:
    """Give a GEMM another ``[out]`` bias."""
    assert gemm.bias is not None
    _replace(graph, gemm.bias, gemm.bias_index, bias)


def add_to_bias(graph: ir.Graph, gemm: Gemm, delta: npt.NDArray[Any]) -> None:
    """Add ``[out]`` to a GEMM's bias."""
    set_bias(graph, gemm, gemm.bias_array + delta.astype(np.float32))


def _replace(graph: ir.Graph, node: ir.Node, index: int, array: npt.NDArray[Any]) -> None:
    """Give one use of an initializer another array, leaving other uses of it alone."""
    old = node.inputs[index]
    assert old is not None
    assert old.name is not None
    base, _, version = old.name.rpartition("~")
    name = f"{base}~{int(version) + 1}" if base else f"{old.name}~1"
    while name in graph.initializers:
        name += "'"
    node.replace_input_with(index, add_initializer(graph, name, array.astype(np.float32)))
    if not old.uses():
        del graph.initializers[old.name]
