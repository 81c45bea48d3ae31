"""Turn a builder's list into records: one for each kernel of each optimization profile."""

from collections.abc import Sequence
from itertools import takewhile
from math import prod

from pipeline.engines.layers.classify import classify, is_kernel
from pipeline.engines.layers.graph import NO_GRAPH, GraphFacts
from pipeline.engines.layers.raw import RawLayer, RawTensor
from pipeline.engines.layers.records import (
    ITEM_BYTES,
    EngineLayers,
    Kind,
    Layer,
    Size,
    Tensor,
    static_elements,
)
from pipeline.engines.layers.sizes import size_constant, size_input, size_outputs

_EPILOGUE = {"Add", "Mul", "Div", "Sub", "Gelu", "Erf", "Relu", "Tanh", "Sigmoid", "Silu", "Clip"}
_FUSED = {"Add", "Mul", "Div", "Sub", "Erf", "Gelu", "Relu", "Tanh", "Sigm", "Silu", "Max", "Min"}
"""What may be computed with a GEMM: ONNX operators, and the compiler's words."""


def describe_layers(
    raw: Sequence[RawLayer], *, runtime: str, runtime_version: str, graph: GraphFacts = NO_GRAPH
) -> EngineLayers:
    """Return a plan's kernels, with sizes and kinds; what starts no kernel is left out."""
    made: dict[tuple[int, str], tuple[RawTensor, Size]] = {}
    profiles = _profiles(raw)
    layers = [
        _describe(layer, place, made, graph)
        for layer, place in zip(raw, profiles, strict=True)
        if is_kernel(layer)
    ]
    return EngineLayers(
        runtime=runtime,
        runtime_version=runtime_version,
        layers=tuple(layers),
        attention=graph.attention,
        kept_fp32=graph.kept_fp32,
        attention_in_fp32=tuple(
            mark
            for mark, products in graph.products.items()
            if not products.isdisjoint(graph.kept_fp32)
        ),
    )


def _profiles(raw: Sequence[RawLayer]) -> list[int]:
    """Return each layer's optimization profile: what any layer of its compiled graph is marked."""
    of_graph: dict[int | None, int] = {}
    for layer in raw:
        if layer.graph is not None:
            of_graph[layer.graph] = max(of_graph.get(layer.graph, 0), layer.marked_profile)
    return [of_graph.get(layer.graph, layer.marked_profile) for layer in raw]


def _describe(
    layer: RawLayer,
    profile: int,
    made: dict[tuple[int, str], tuple[RawTensor, Size]],
    graph: GraphFacts,
) -> Layer:
    kind = classify(layer, graph)
    here = {name: found for (at, name), found in made.items() if at == profile}
    inputs = [size_input(tensor, here) for tensor in layer.inputs]
    weight = _weight(layer, graph) if kind is Kind.gemm else None
    outputs = size_outputs(layer, inputs, weight, graph)
    made.update(
        ((profile, tensor.name), (tensor, size))
        for tensor, size in zip(layer.outputs, outputs, strict=True)
    )
    gathered = "Gath" in layer.operators
    constants = [size_constant(tensor, gathered=gathered) for tensor in layer.constants]
    products = kind in (Kind.gemm, Kind.attention)
    return Layer(
        name=layer.name,
        kind=kind,
        profile=profile,
        inputs=_tensors(layer.inputs, inputs),
        constants=_tensors(layer.constants, constants),
        outputs=_tensors(layer.outputs, outputs),
        nodes=layer.nodes,
        tactic=layer.tactic.strip(", "),
        type=_computed_in(layer, kind) if products else None,
        operations=_operations(layer, kind, inputs, outputs, weight),
        gemms=_gemms(layer, graph) if weight is not None else (),
        epilogue=weight is not None and _keeps_epilogue(layer, graph),
    )


def _tensors(raw: Sequence[RawTensor], sizes: Sequence[Size]) -> tuple[Tensor, ...]:
    return tuple(
        Tensor(name=tensor.name, type=tensor.type, dims=tensor.dims, size=size)
        for tensor, size in zip(raw, sizes, strict=True)
    )


def _weight(layer: RawLayer, graph: GraphFacts) -> int | None:
    """Return the elements of a linear GEMM's constant matrix, or matrices where it has several.

    Where a list leaves constants out, or a kernel before has dequantized them, the graph knows;
    without it a product of one computed tensor is taken for one.
    """
    computed = [tensor for tensor in layer.inputs if len(tensor.dims) > 1]
    if not computed or not layer.outputs:
        return None
    depth = computed[0].dims[-1]
    matrices = [
        static_elements(tensor.dims)
        for tensor in layer.constants
        if sum(size > 1 for size in tensor.dims) >= 2 and depth in tensor.dims
    ]
    if matrices:
        return max(matrices)
    known = [prod(graph.gemms[name]) for name in layer.nodes if name in graph.gemms]
    if known:
        return sum(known)
    width = layer.outputs[0].dims[-1]
    return depth * width if len(computed) == 1 and not layer.constants else None


def _computed_in(layer: RawLayer, kind: Kind) -> str:
    """Return the type of what is multiplied; masks and lengths are not.

    A GEMM of an int8 and a wider tensor converts the one and computes in the other; one that casts
    before it multiplies (``CastMulCastCastMulCastFc``) dequantizes in its own kernel.
    """
    types = [
        tensor.type for tensor in layer.inputs if tensor.type not in ("bool", "int32", "int64")
    ]
    if kind is Kind.attention:
        return types[0] if types else "unknown"
    types += [t.type for t in layer.constants if sum(size > 1 for size in t.dims) >= 2]
    if "Cast" in takewhile(lambda word: word != "Fc", layer.operators):
        types += [tensor.type for tensor in layer.outputs]
    return max(types, key=lambda name: ITEM_BYTES.get(name, 0), default="unknown")


def _operations(
    layer: RawLayer,
    kind: Kind,
    inputs: Sequence[Size],
    outputs: Sequence[Size],
    weight: int | None,
) -> Size | None:
    """Count multiplications and additions of matrix products; of attention, both products.

    Linear: 2 * rows * in * out. Attention, and its products where they are not fused: scores of
    every token with every other, 2 * batch * sequence^2 * width each.
    """
    if weight is not None and inputs:
        rows, depth = inputs[0], layer.inputs[0].dims[-1]
        return Size(factor=2 * rows.factor * weight // depth, b=rows.b, s=rows.s)
    if kind is Kind.attention and outputs:
        return Size(factor=4 * outputs[0].factor, b=outputs[0].b, s=outputs[0].s + 1)
    if kind is Kind.gemm and inputs:
        tokens = min((*inputs, *outputs), key=lambda size: (size.s, size.factor))
        return Size(factor=2 * tokens.factor, b=tokens.b, s=tokens.s + 1)
    return None


def _gemms(layer: RawLayer, graph: GraphFacts) -> tuple[str, ...]:
    known = tuple(
        name
        for node in layer.nodes
        if node in graph.gemms
        for name in graph.packed.get(node, (node,))
    )
    return known or (layer.name,)


def _keeps_epilogue(layer: RawLayer, graph: GraphFacts) -> bool:
    operators = {graph.nodes[name].operator for name in layer.nodes if name in graph.nodes}
    return bool(operators & _EPILOGUE or set(layer.operators) & _FUSED)
