"""Cast a graph's floating point to fp16 or bf16, keeping in fp32 what those lose.

The type of every node is in the graph, as TensorRT's strongly typed networks want it; no builder
flag decides. In fp32 stay norms (LayerNormalization, root mean square in open code), Softmax and
other reductions, everything behind the last of them and the last product of token vectors (pooling
sums, divisions by a token count clipped to 1e-9, Dense modules), what computes positions, and what
text drives beyond fp16's range; of bf16 the residual stream. The cast stage uses this for both,
quantize for what int8 leaves in high precision.
"""

import fnmatch
from collections.abc import Collection, Sequence

import numpy as np
import onnx_ir as ir

from pipeline.contracts import SourceModel
from pipeline.engines.layers.graph import KEPT_FP32
from pipeline.errors import CastError
from pipeline.graph.files import add_initializer, constant, prune
from pipeline.graph.half_types import FP16, HalfType
from pipeline.graph.observe import run_observed, unpadded_batches
from pipeline.graph.rms_norms import find_rms_norms
from pipeline.text.datasets import spread
from pipeline.text.source_text import open_tokenizer, tokenize

_FLOAT = ir.DataType.FLOAT
FP16_MAX = FP16.largest
_NORMS = {"LayerNormalization", "RMSNormalization", "Softmax"}
_FUSED = {
    "Attention",
    "MultiHeadAttention",
    "SkipLayerNormalization",
    "SkipSimplifiedLayerNormalization",
    "SimplifiedLayerNormalization",
}
"""Operators of ``graph.cuda`` with a norm or a softmax inside."""
_FP32_OPS = _NORMS | {
    "Pow",
    "Sqrt",
    "Reciprocal",
    "Exp",
    "Log",
    "ReduceSum",
    "ReduceMean",
    "ReduceL2",
    "ReduceSumSquare",
    "LogSoftmax",
    "LpNormalization",
    "CumSum",
    "Einsum",
}
_ANGLES = {"Cos", "Sin"}
_HEADROOM = 0.25
"""Share of fp16's range that calibrated values may use: unseen text goes somewhat further."""

_PROBED_TEXTS = 128
_PROBED_TOKENS = 512
"""Tokens a batch: every tensor of the graph is held at once, attention scores included."""

MASK_VALUE = -1e4
"""Added to masked attention scores. ``finfo.min`` overflows fp16, and -inf in every column of a
fully padded row makes softmax NaN; e^-10000 is 0 in any float type."""


def refuse_subgraphs(model: ir.Model) -> None:
    """Raise CastError for a graph with control flow, which cannot be typed node by node."""
    for node in model.graph:
        kinds = {attribute.type for attribute in node.attributes.values()}
        if kinds & {ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS}:
            raise CastError(
                f"node {node.name} ({node.op_type}) holds a subgraph; use precision=fp32"
            )


def find_wide_tensors(
    model: ir.Model,
    source: SourceModel,
    texts: Sequence[str],
    keep: Sequence[str] = (),
    *,
    ignore: Collection[str] = (),
) -> list[str]:
    """Return the computed float tensors that come near fp16's largest number on the texts.

    Those that a pattern in ``keep`` names count too (``precision.keep_fp32``), those in ``ignore``
    do not. Seen in fp32: a CPU does not show an fp16 overflow, ONNX Runtime computes fp16 in fp32
    there.

    Raises:
        CastError: a pattern that no tensor's name matches.
    """
    kept = find_named_tensors(model, source, keep)
    looked_at = [value for value in _inner_tensors(model) if value.name not in ignore]
    reach = largest_values(model, looked_at, source, texts)
    return sorted(
        kept | {name for name, value in reach.items() if not value <= _HEADROOM * FP16_MAX}
    )


def find_named_tensors(model: ir.Model, source: SourceModel, keep: Sequence[str]) -> set[str]:
    """Return the computed float tensors that a pattern names (``precision.keep_fp32``).

    Raises:
        CastError: a pattern that no tensor's name matches.
    """
    names = [value.name or "" for value in _inner_tensors(model)]
    kept: set[str] = set()
    for pattern in keep:
        matched = fnmatch.filter(names, pattern)
        if not matched:
            raise CastError(f"precision.keep_fp32: no tensor of {source.name} matches {pattern!r}")
        kept.update(matched)
    return kept


def _inner_tensors(model: ir.Model) -> list[ir.Value]:
    return [value for value in float_tensors(model) if not value.is_graph_output()]


def float_tensors(model: ir.Model, kind: ir.DataType = _FLOAT) -> list[ir.Value]:
    """Return the tensors of a type that the graph's nodes compute."""
    outputs = (output for node in model.graph for output in node.outputs)
    return [value for value in outputs if value.dtype is kind and value.shape is not None]


def largest_values(
    model: ir.Model, tensors: Sequence[ir.Value], source: SourceModel, texts: Sequence[str]
) -> dict[str, float]:
    """Return each tensor's largest magnitude over some of the texts, NaN where there is one."""
    tokenizer = open_tokenizer(source)
    rows = tokenize(source, tokenizer, spread(texts, _PROBED_TEXTS))
    batches = unpadded_batches(tokenizer, rows, max_tokens=_PROBED_TOKENS)
    reach: dict[str, float] = {}
    for values in run_observed(model, tensors, batches):
        for name, value in values.items():
            if value.size:
                reach[name] = float(np.maximum(reach.get(name, 0.0), np.abs(value).max()))
    return reach


def cast_to_half(
    model: ir.Model,
    wide: Sequence[str] = (),
    *,
    norms_in_half: bool = False,
    half: HalfType = FP16,
) -> tuple[int, int]:
    """Cast in place; return how many float nodes compute in ``half`` and how many in fp32.

    With ``norms_in_half`` norms and softmax read and write ``half``, for kernels that take their
    sums in fp32 all the same.

    A node that reads or makes a tensor named in ``wide``, or holds a weight that ``half`` cannot
    hold, stays in fp32.
    """
    too_wide = frozenset(wide)
    graph = model.graph
    inside_norms = {node for norm in find_rms_norms(graph) for node in norm.nodes}
    exact = inside_norms | _behind_the_tokens(graph, inside_norms) | _computing_positions(graph)
    types: dict[ir.Value, ir.DataType] = {}
    casts: dict[tuple[ir.Value, ir.DataType], ir.Value] = {}
    narrow = full = 0
    for node in list(graph):
        produces = _float_outputs(node)
        reads = [i for i, v in enumerate(node.inputs) if v is not None and _float_input(v, types)]
        if not produces and not reads:
            continue
        if node.op_type == "Cast":  # left as it is: what reads it casts again where it needs half
            types |= dict.fromkeys(produces, _FLOAT)
            continue
        touched = {v.name for v in (*node.inputs, *node.outputs) if v is not None}
        keep = (
            node in exact
            or (node.op_type in _FP32_OPS and not (norms_in_half and node.op_type in _NORMS))
            or (half.exact_sums and _sums_computed(node))
            or _overflows(node, half)
            or not touched.isdisjoint(too_wide)
        )
        if keep and node.op_type in ("MatMul", "Gemm"):
            node.metadata_props[KEPT_FP32] = f"{half.name} loses what it computes"
        wanted = _FLOAT if keep else half.type
        narrow, full = narrow + (not keep), full + keep
        for index in reads:
            value = node.inputs[index]
            assert value is not None
            node.replace_input_with(index, _as(graph, node, value, wanted, types, casts, half))
        for output in produces:
            types[output] = wanted
            output.type = ir.TensorType(wanted)  # its own: values may share one
    for index, output in enumerate(graph.outputs):
        if types.get(output, _FLOAT) is not _FLOAT:
            raise CastError(f"output {output.name} of index {index} came out as {types[output]}")
    prune(model)
    return narrow, full


def _float_outputs(node: ir.Node) -> list[ir.Value]:
    """Return a float node's outputs, untyped optional ones included; of other nodes none."""
    dtypes = {v.dtype for v in node.outputs}
    return list(node.outputs) if _FLOAT in dtypes and dtypes <= {_FLOAT, None} else []


def _float_input(value: ir.Value, types: dict[ir.Value, ir.DataType]) -> bool:
    if value in types:
        return True
    array = constant(value)
    if array is not None:
        return array.dtype == np.float32
    return value.dtype is _FLOAT


def _behind_the_tokens(graph: ir.Graph, inside_norms: Collection[ir.Node]) -> set[ir.Node]:
    """Return the nodes that lead to no norm, softmax or product of token vectors: from pooling on.

    Products count since not every encoder ends in a norm: MobileBERT has none, others write theirs
    in open code. ``inside_norms`` are the nodes of norms in open code that are known.
    """
    tokens = {
        node
        for node in graph
        if node.op_type in _NORMS | _FUSED or node in inside_norms or _multiplies_tokens(node)
    }
    reaches: set[ir.Node] = set()
    tail: set[ir.Node] = set()
    for node in reversed(graph):
        users = [use.node for output in node.outputs for use in output.uses()]
        if any(user in tokens or user in reaches for user in users):
            reaches.add(node)
        elif node not in tokens:
            tail.add(node)
    return tail


def _multiplies_tokens(node: ir.Node) -> bool:
    """Whether a node is a product with a vector a token, not one a sentence."""
    shape = node.outputs[0].shape
    return node.op_type == "MatMul" and shape is not None and len(shape) > 2


def _computing_positions(graph: ir.Graph) -> set[ir.Node]:
    """Return the float nodes that lead to an angle (Cos, Sin) or, by a Cast, to an integer.

    fp16 has steps of 0.5 from 512 on: rotary angles of far positions would be random, buckets of
    relative positions off by one.
    """
    exact: set[ir.Node] = set()
    for node in reversed(graph):
        users = {use.node for output in _float_outputs(node) for use in output.uses()}
        to_integer = any(u.op_type == "Cast" and not _float_outputs(u) for u in users)
        if node.op_type in _ANGLES or to_integer or not users.isdisjoint(exact):
            exact.add(node)
    return exact


def _sums_computed(node: ir.Node) -> bool:
    """Whether the node adds two computed tensors, as the residual stream does."""
    return node.op_type == "Add" and all(constant(value) is None for value in node.inputs)


def _overflows(node: ir.Node, half: HalfType) -> bool:
    """Whether a weight of the node cannot be held in half; a scalar is a mask value, not one."""
    arrays = [constant(value) for value in node.inputs]
    return any(
        a is not None
        and a.dtype == np.float32
        and a.size > 1
        and float(np.abs(a).max()) > half.largest
        for a in arrays
    )


def _as(
    graph: ir.Graph,
    node: ir.Node,
    value: ir.Value,
    wanted: ir.DataType,
    types: dict[ir.Value, ir.DataType],
    casts: dict[tuple[ir.Value, ir.DataType], ir.Value],
    half: HalfType,
) -> ir.Value:
    """Return the value in the wanted type: a converted initializer, or behind one shared Cast."""
    array = constant(value)
    if array is None and types.get(value, value.dtype) is wanted:
        return value
    if array is not None and wanted is _FLOAT:
        return value
    if (value, wanted) in casts:
        return casts[value, wanted]
    if array is not None:
        if array.size == 1 and float(array.reshape(-1)[0]) < MASK_VALUE:
            array = np.full_like(array, MASK_VALUE)
        result = add_initializer(graph, f"{value.name}.{half.name}", half.round(array))
    else:
        suffix = "fp32" if wanted is _FLOAT else half.name
        made = ir.node("Cast", [value], {"to": int(wanted)}, name=f"{value.name}.to_{suffix}")
        result = made.outputs[0]
        result.name, result.dtype, result.shape = f"{value.name}.{suffix}", wanted, value.shape
        graph.insert_before(node, made)
    casts[value, wanted] = result
    return result
