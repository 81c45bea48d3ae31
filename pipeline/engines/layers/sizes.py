"""Compute how large a plan's tensors are, as functions of batch and sequence.

A plan lists dynamic dimensions as -1, joined where the compiler joined them: ``[-1,384]`` may be
batch times sequence rows, or batch. What a kernel makes has the size of what one of its ONNX nodes
makes, the last that fits; the graph knows which dimension is which.
"""

from collections.abc import Mapping, Sequence

from pipeline.engines.layers.graph import GraphFacts
from pipeline.engines.layers.raw import RawLayer, RawTensor
from pipeline.engines.layers.records import Size, static_elements


def size_outputs(
    layer: RawLayer, inputs: Sequence[Size], weight: int | None, graph: GraphFacts
) -> list[Size]:
    """Return the sizes of what a kernel makes; ``weight`` counts a linear GEMM's constants."""
    known = [graph.nodes[name] for name in layer.nodes if name in graph.nodes]
    made = [
        facts.size
        for facts in sorted(known, key=lambda facts: facts.place, reverse=True)
        if facts.size is not None and (facts.size.b or facts.size.s)
    ]
    read = {tensor.dims: size for tensor, size in zip(layer.inputs, inputs, strict=True)}
    return [
        _rows_of_gemm(layer, tensor, inputs, weight)
        or _fitting(tensor, made)
        or read.get(tensor.dims)
        or guess_size(tensor)
        for tensor in layer.outputs
    ]


def _rows_of_gemm(
    layer: RawLayer, tensor: RawTensor, inputs: Sequence[Size], weight: int | None
) -> Size | None:
    """Return the size of a linear GEMM's output: as many rows as go in, of its own width."""
    if weight is None or not inputs:
        return None
    depth = layer.inputs[0].dims[-1]
    if depth < 1 or weight % depth or inputs[0].factor % depth:
        return None
    width = weight // depth
    if static_elements(tensor.dims) != width:
        return None
    return Size(factor=inputs[0].factor // depth * width, b=inputs[0].b, s=inputs[0].s)


def _fitting(tensor: RawTensor, made: Sequence[Size]) -> Size | None:
    static, dynamic = static_elements(tensor.dims), sum(size < 0 for size in tensor.dims)
    if not dynamic:
        return Size(factor=static)
    fitting = [
        size
        for size in made
        if size.factor % static == 0 and dynamic <= max(size.b + size.s, 1) <= dynamic + 1
    ]
    exact = [size for size in fitting if size.factor == static]
    if not exact and static == 1 and dynamic < 3:  # a number for each row, not heads joined to one
        return None
    return next(iter(exact or fitting), None)


def guess_size(tensor: RawTensor) -> Size:
    """Return what the dimensions alone suggest: tokens first, then a sequence besides."""
    static, dims = static_elements(tensor.dims), tensor.dims
    dynamic = sum(size < 0 for size in dims)
    if not dynamic:
        return Size(factor=static)
    leading = dims[0] < 0
    if dynamic == 1:
        return Size(factor=static, b=int(leading), s=int(not leading or len(dims) == 2))
    if dynamic == 2:
        return Size(factor=static, b=1, s=1) if leading else Size(factor=static, s=2)
    return Size(factor=static, b=1, s=2)


def size_input(tensor: RawTensor, made: Mapping[str, tuple[RawTensor, Size]]) -> Size:
    """Return the size of what a kernel reads: all of what was made, or its slice of it."""
    if tensor.name not in made:
        return guess_size(tensor)
    source, size = made[tensor.name]
    static, whole = static_elements(tensor.dims), static_elements(source.dims)
    if len(tensor.dims) == len(source.dims) and static < whole and whole % static == 0:
        return Size(factor=size.factor * static // whole, b=size.b, s=size.s)
    return size


def size_constant(tensor: RawTensor, *, gathered: bool) -> Size:
    """Return the size of what is read of a constant: of a lookup table, a row a token."""
    whole = static_elements(tensor.dims)
    if gathered and len(tensor.dims) == 2 and min(tensor.dims) > 1:
        return Size(factor=tensor.dims[1], b=1, s=1, most=whole)
    return Size(factor=whole)
