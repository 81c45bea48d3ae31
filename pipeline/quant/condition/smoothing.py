"""Move outliers where they hurt less, without changing the function of the graph.

Each channel of the tensor that a group of GEMMs reads is shifted and divided, ``(x - z) / s``, and
the GEMMs' weights and biases undo it:

- division: Xiao et al., "SmoothQuant: Accurate and Efficient Post-Training Quantization for Large
  Language Models", ICML 2023 (arXiv:2211.10438), eq. 4;
- shift: Wei et al., "Outlier Suppression+: Accurate quantization of large language models by
  equivalent and effective shifting and scaling", EMNLP 2023 (arXiv:2304.09145), eq. 4.

Both are folded where ``folds`` finds that to be exact. Behind a norm, consumers that are no GEMM of
the group (the residual branch) get it undone: one Mul, the shift going into the bias of the GEMM
they add. Elsewhere (behind GELU) it is one explicit Mul and Add, which TensorRT fuses with what is
before.
"""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from pipeline.graph.files import add_initializer, constant
from pipeline.graph.gemms import Gemm, GemmGroup
from pipeline.quant.calibrate.statistics import Activation
from pipeline.quant.condition.channels import ChannelSource, Use
from pipeline.quant.condition.folds import (
    Fold,
    Norm,
    find_gated_projection,
    find_norm,
    find_value_projection,
)
from pipeline.vectors import FloatArray


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
        return self._find(group)[0]

    def can_shift(self, group: GemmGroup) -> bool:
        """Whether every bias that would take up the shift is there."""
        if any(gemm.bias is None for gemm in group.gemms):
            return False
        match self._find(group):
            case _, Norm(bias=bias):
                return bias is not None
            case Fold.value_projection, ChannelSource(gemm=value):
                return value.bias is not None
            case fold, _:
                return fold is Fold.explicit

    def smooth(self, group: GemmGroup, shift: FloatArray, factors: FloatArray) -> GemmGroup:
        """Apply ``(x - shift) / factors``, undo it in the GEMMs; return the group as it is now."""
        _, place = self._find(group)
        for gemm in group.gemms:
            if shift.any():
                add_to_bias(self._graph, gemm, shift @ gemm.weight)
            set_weight(self._graph, gemm, gemm.weight * factors[:, None])
        match place:
            case Norm():
                self._fold_into_norm(group, place, shift, factors)
            case ChannelSource():
                self._fold_into_projection(place, shift, factors)
            case None:
                return self._apply_explicitly(group, shift, factors)
        return group

    def _find(self, group: GemmGroup) -> tuple[Fold, Norm | ChannelSource | None]:
        norm = find_norm(group)
        if norm is not None:
            return Fold.layer_norm, norm
        value = find_value_projection(group, self._gemms)
        if value is not None:
            return Fold.value_projection, value
        gated = find_gated_projection(group, self._gemms)
        if gated is not None:
            return Fold.gated_projection, gated
        return Fold.explicit, None

    def _fold_into_projection(
        self, source: ChannelSource, shift: FloatArray, factors: FloatArray
    ) -> None:
        gemm, channels = source.gemm, source.channels
        weight = gemm.weight.copy()
        weight[:, channels] /= factors
        set_weight(self._graph, gemm, weight)
        if gemm.bias is not None:
            bias = gemm.bias_array.copy()
            bias[channels] = (bias[channels] - shift) / factors
            set_bias(self._graph, gemm, bias)

    def _fold_into_norm(
        self, group: GemmGroup, norm: Norm, shift: FloatArray, factors: FloatArray
    ) -> None:
        name = group.name
        inside = {gemm.node for gemm in group.gemms}
        outside = [
            use
            for use in group.activation.uses()
            if use.node not in inside and use.node.op_type != "Shape"
        ]
        _replace(self._graph, *norm.scale, _array(norm.scale) / factors)
        if norm.bias is not None:
            self._shift_norm(norm.bias, shift, factors)
        if not outside:
            return
        last, unsmoothed = norm.last, group.activation
        if not _is_one(factors):
            factor = add_initializer(self._graph, f"{name}.smoothing", factors)
            last = _node("Mul", [group.activation, factor], f"{name}.unsmooth")
            self._graph.insert_after(norm.last, last)
            unsmoothed = last.outputs[0]
        shifted: ir.Node | None = None
        for use in outside:
            value = unsmoothed
            partner = self._added_gemm(use.node, use.idx) if shift.any() else None
            if partner is not None:
                add_to_bias(self._graph, partner, shift)
            elif shift.any():
                if shifted is None:
                    offset = add_initializer(self._graph, f"{name}.shift", shift)
                    shifted = _node("Add", [value, offset], f"{name}.unshift")
                    self._graph.insert_after(last, shifted)
                value = shifted.outputs[0]
            use.node.replace_input_with(use.idx, value)

    def _shift_norm(self, bias: Use, shift: FloatArray, factors: FloatArray) -> None:
        node, index = bias
        if index < len(node.inputs) and node.inputs[index] is not None:
            _replace(self._graph, node, index, (_array(bias) - shift) / factors)
        elif shift.any():
            name = f"{node.outputs[0].name}.bias"
            node.resize_inputs(index + 1)
            node.replace_input_with(index, add_initializer(self._graph, name, -shift / factors))

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
        name, first, value = group.name, group.gemms[0].node, group.activation
        if not _is_one(factors):
            inverse = add_initializer(self._graph, f"{name}.smoothing", 1 / factors)
            smoothed = _node("Mul", [value, inverse], f"{name}.smooth")
            self._graph.insert_before(first, smoothed)
            value = smoothed.outputs[0]
        if shift.any():
            offset = add_initializer(self._graph, f"{name}.shift", -shift / factors)
            smoothed = _node("Add", [value, offset], f"{name}.unshifted")
            self._graph.insert_before(first, smoothed)
            value = smoothed.outputs[0]
        for gemm in group.gemms:
            gemm.node.replace_input_with(0, value)
        return GemmGroup(activation=value, gemms=group.gemms)


def _is_one(factors: FloatArray) -> bool:
    return bool((factors == 1).all())


def _node(op_type: str, inputs: Sequence[ir.Value], name: str) -> ir.Node:
    node = ir.node(op_type, inputs, name=name)
    output = node.outputs[0]
    output.name, output.type, output.shape = f"{name}ed", inputs[0].type, inputs[0].shape
    return node


def _array(use: Use) -> FloatArray:
    node, index = use
    array = constant(node.inputs[index])
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
    base = old.name.partition("~")[0]
    names = (f"{base}~{version}" for version in itertools.count(1))
    name = next(name for name in names if name not in graph.initializers)
    node.replace_input_with(index, add_initializer(graph, name, array.astype(np.float32)))
    if not old.uses():
        del graph.initializers[old.name]
