"""Turn a builder's list into records: one for each kernel of each optimization profile."""

from collections.abc import Sequence

from pipeline.engines.layers.classify import classify, is_kernel
from pipeline.engines.layers.graph import NO_GRAPH, GraphFacts
from pipeline.engines.layers.raw import RawLayer, RawTensor
from pipeline.engines.layers.records import EngineLayers, Kind, Layer, Size, Tensor, static_elements
from pipeline.engines.layers.sizes import size_constant, size_input, size_outputs

_EPILOGUE = {"Add", "Mul", "Div", "Sub", "Gelu", "Erf", "Relu", "Tanh", "Sigmoid", "Silu", "Clip"}
_FUSED = {"Add", "Mul", "Div", "Sub", "Erf", "Gelu", "Relu", "Tanh", "Sigm", "Silu", "Max", "Min"}
"""What may be computed with a GEMM: ONNX operators, and the compiler's words."""


def describe_layers(
    raw: Sequence[RawLayer], *, runtime: str, runtime_version: str, graph: GraphFacts = NO_GRAPH
) -> EngineLayers:
    """Return a plan's kernels, with sizes and kinds; what starts no kernel is left out."""
    made: dict[tuple[int, str], tuple[RawTensor, Size]] = {}
    layers = [_describe(layer, made, graph) for layer in raw if is_kernel(layer)]
    return EngineLayers(
        runtime=runtime,
        runtime_version=runtime_version,
        layers=tuple(layers),
        attention=graph.attention,
        kept_fp32=graph.kept_fp32,
    )


def _describe(
    layer: RawLayer, made: dict[tuple[int, str], tuple[RawTensor, Size]], graph: GraphFacts
) -> Layer:
    profile, kind = layer.profile, classify(layer, graph)
    here = {name: found for (at, name), found in made.items() if at == profile}
    inputs = [size_input(tensor, here) for tensor in layer.inputs]
    weight = _weight(layer) if kind is Kind.gemm else None
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
        type=_computed_in(layer) if products else None,
        operations=_operations(layer, kind, inputs, outputs, weight),
        gemms=_gemms(layer, graph) if weight is not None else (),
        epilogue=weight is not None and _keeps_epilogue(layer, graph),
    )


def _tensors(raw: Sequence[RawTensor], sizes: Sequence[Size]) -> tuple[Tensor, ...]:
    return tuple(
        Tensor(name=tensor.name, type=tensor.type, dims=tensor.dims, size=size)
        for tensor, size in zip(raw, sizes, strict=True)
    )


def _weight(layer: RawLayer) -> int | None:
    """Return the elements of a linear GEMM's constant matrix, or matrices where it has several.

    Where a list leaves constants out, a product of one computed tensor is taken for one.
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
    width = layer.outputs[0].dims[-1]
    return depth * width if len(computed) == 1 and not layer.constants else None


def _computed_in(layer: RawLayer) -> str:
    """Return the type of the first thing that is multiplied; masks and lengths are none."""
    types = [
        tensor.type for tensor in layer.inputs if tensor.type not in ("bool", "int32", "int64")
    ]
    return types[0] if types else "unknown"


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
