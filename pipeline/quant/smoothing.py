"""SmoothQuant: divide outlier channels by a factor and multiply the weights that read them.

Xiao et al., "SmoothQuant: Accurate and Efficient Post-Training Quantization for Large Language
Models", ICML 2023 (arXiv:2211.10438), eq. 4. The function of the graph does not change; only
where its large numbers sit does. The factor is folded where that is exact:

- behind LayerNormalization: into its scale and bias; consumers that are no GEMM of the group
  (the residual branch) get it multiplied back, one elementwise op that fuses with their Add;
- behind attention (probabilities times value): into the value projection, whose output channels
  pass through unmixed;
- elsewhere (behind GELU): one explicit Mul, which TensorRT fuses with what is before it.
"""

from enum import StrEnum
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from pipeline.graph import add_initializer, constant
from pipeline.quant.gemms import FloatArray, Gemm, GemmGroup
from pipeline.quant.statistics import ChannelRange


class Fold(StrEnum):
    """Where a group's smoothing factor went."""

    layer_norm = "layer_norm"
    value_projection = "value_projection"
    explicit_mul = "explicit_mul"


def smoothing_factors(magnitude: FloatArray, weights: list[FloatArray], alpha: float) -> FloatArray:
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


def smooth(
    graph: ir.Graph,
    group: GemmGroup,
    observed: ChannelRange,
    alpha: float,
    gemms: dict[ir.Value, Gemm],
) -> tuple[GemmGroup, ChannelRange, Fold]:
    """Smooth one group in place.

    ``gemms`` maps a GEMM's output (bias added) to the GEMM, to find value projections.

    Returns the group as it stands now (an explicit Mul gives it another tensor), its new range
    and where the factor went.
    """
    factors = smoothing_factors(observed.magnitude, [g.weight for g in group.gemms], alpha)
    producer = group.activation.producer()
    value = _value_projection(group, gemms)
    if producer is not None and producer.op_type == "LayerNormalization":
        _fold_into_layer_norm(graph, producer, group, factors)
        fold = Fold.layer_norm
    elif value is not None:
        _divide_output(graph, value, factors)
        fold = Fold.value_projection
    else:
        group = _multiply_explicitly(graph, group, factors)
        fold = Fold.explicit_mul
    for gemm in group.gemms:
        _set_weight(graph, gemm, gemm.weight * factors[:, None])
    return group, ChannelRange(observed.low / factors, observed.high / factors), fold


def _fold_into_layer_norm(
    graph: ir.Graph, norm: ir.Node, group: GemmGroup, factors: FloatArray
) -> None:
    inside = {gemm.node for gemm in group.gemms}
    outside = [use for use in group.activation.uses() if use.node not in inside]
    name = group.name
    for index in range(1, len(norm.inputs)):
        array = constant(norm.inputs[index])
        if array is not None:
            kind = "scale" if index == 1 else "bias"
            folded = add_initializer(graph, f"{name}.smoothed_{kind}", array / factors)
            norm.replace_input_with(index, folded)
    if outside or group.activation.is_graph_output():
        restored = ir.node(
            "Mul",
            [group.activation, add_initializer(graph, f"{name}.smoothing", factors)],
            name=f"{name}.unsmooth",
        )
        restored.outputs[0].name = f"{name}.unsmoothed"
        graph.insert_after(norm, restored)
        for use in outside:
            use.node.replace_input_with(use.idx, restored.outputs[0])


def _multiply_explicitly(graph: ir.Graph, group: GemmGroup, factors: FloatArray) -> GemmGroup:
    inverse = add_initializer(graph, f"{group.name}.smoothing", (1 / factors).astype(np.float32))
    mul = ir.node("Mul", [group.activation, inverse], name=f"{group.name}.smooth")
    mul.outputs[0].name = f"{group.name}.smoothed"
    graph.insert_before(group.gemms[0].node, mul)
    for gemm in group.gemms:
        gemm.node.replace_input_with(0, mul.outputs[0])
    return GemmGroup(activation=mul.outputs[0], gemms=group.gemms)


def _value_projection(group: GemmGroup, gemms: dict[ir.Value, Gemm]) -> Gemm | None:
    """Return the GEMM whose output channels are this tensor's channels, mixed over tokens only.

    Walks ``probabilities @ value`` back through the head split: Reshape [B,S,H,D] and Transpose
    (0,2,1,3) on the way in, the same Transpose and a Reshape to [B,S,C] on the way out.
    """
    merged = _through(_through(group.activation, "Reshape"), "Transpose", (0, 2, 1, 3))
    matmul = merged.producer() if merged is not None else None
    if matmul is None or matmul.op_type != "MatMul" or constant(matmul.inputs[1]) is not None:
        return None
    split = _through(_through(matmul.inputs[1], "Transpose", (0, 2, 1, 3)), "Reshape")
    gemm = gemms.get(split) if split is not None else None
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


def _divide_output(graph: ir.Graph, gemm: Gemm, factors: FloatArray) -> None:
    _set_weight(graph, gemm, gemm.weight / factors[None, :])
    if gemm.bias is not None:
        old = constant(gemm.bias.inputs[gemm.bias_index])
        assert old is not None
        _replace(graph, gemm.bias, gemm.bias_index, old / factors)


def _set_weight(graph: ir.Graph, gemm: Gemm, weight: FloatArray) -> None:
    _replace(graph, gemm.node, 1, weight)


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
