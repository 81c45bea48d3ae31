"""Compute ONNX operators in PyTorch: those that encoders are exported to.

The semantics are those of the specification (https://onnx.ai/onnx/operators/).
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
import torch.nn.functional as F  # noqa: N812

Tensor = torch.Tensor


def _int(node: ir.Node, name: str, default: int) -> int:
    return node.attributes[name].as_int() if name in node.attributes else default


def _float(node: ir.Node, name: str, default: float) -> float:
    return node.attributes[name].as_float() if name in node.attributes else default


def _axes(node: ir.Node, given: Tensor | None) -> list[int] | None:
    """Axes are an input since opset 13 or 18 and were an attribute before."""
    if given is not None:
        return [int(axis) for axis in given.reshape(-1)]
    return list(node.attributes["axes"].as_ints()) if "axes" in node.attributes else None


def _reshape(node: ir.Node, x: Tensor, shape: Tensor) -> Tensor:
    sizes = [int(n) for n in shape]
    if not _int(node, "allowzero", 0):
        sizes = [x.shape[i] if n == 0 else n for i, n in enumerate(sizes)]
    return x.reshape(sizes)


def _slice(
    node: ir.Node, x: Tensor, starts: Tensor, ends: Tensor, axes: Tensor, steps: Tensor
) -> Tensor:
    del node
    count = len(starts)
    along = range(count) if axes is None else axes.tolist()
    strides = [1] * count if steps is None else steps.tolist()
    for axis, start, end, step in zip(along, starts.tolist(), ends.tolist(), strides, strict=True):
        picked = range(x.shape[axis])[start:end:step]
        x = (
            x.index_select(axis, torch.tensor(list(picked), dtype=torch.int64))
            if step != 1
            else x.narrow(axis, picked.start, len(picked))
        )
    return x


def _gather(node: ir.Node, x: Tensor, indices: Tensor) -> Tensor:
    axis = _int(node, "axis", 0) % x.dim()
    wrapped = torch.where(indices < 0, indices + x.shape[axis], indices)
    if axis == 0 and x.is_floating_point() and x.dim() == 2:
        return F.embedding(wrapped, x)
    taken = x.index_select(axis, wrapped.reshape(-1))
    return taken.reshape((*x.shape[:axis], *indices.shape, *x.shape[axis + 1 :]))


def _gather_elements(node: ir.Node, x: Tensor, indices: Tensor) -> Tensor:
    axis = _int(node, "axis", 0)
    return x.gather(axis, torch.where(indices < 0, indices + x.shape[axis], indices))


def _gather_nd(node: ir.Node, x: Tensor, indices: Tensor) -> Tensor:
    rank = indices.dim() - 1
    batch = [
        torch.arange(indices.shape[i]).reshape(-1, *[1] * (rank - 1 - i))
        for i in range(_int(node, "batch_dims", 0))
    ]
    return x[(*batch, *indices.unbind(-1))]


def _arg_max(node: ir.Node, x: Tensor) -> Tensor:
    return x.argmax(_int(node, "axis", 0), keepdim=bool(_int(node, "keepdims", 1)))


def _reduce(
    function: Callable[[Tensor, list[int], bool], Tensor],
) -> Callable[..., Tensor]:
    def op(node: ir.Node, x: Tensor, axes: Tensor | None = None) -> Tensor:
        along = _axes(node, axes)
        if not along and _int(node, "noop_with_empty_axes", 0):
            return x
        return function(x, along or list(range(x.dim())), bool(_int(node, "keepdims", 1)))

    return op


def _clip(
    node: ir.Node, x: Tensor, low: Tensor | None = None, high: Tensor | None = None
) -> Tensor:
    del node
    x = x if low is None else torch.maximum(x, low)
    return x if high is None else torch.minimum(x, high)


def _layer_norm(node: ir.Node, x: Tensor, scale: Tensor, bias: Tensor | None = None) -> Tensor:
    axis = _int(node, "axis", -1)
    return F.layer_norm(x, x.shape[axis:], scale, bias, _float(node, "epsilon", 1e-5))


def _rms_norm(node: ir.Node, x: Tensor, scale: Tensor) -> Tensor:
    axis = _int(node, "axis", -1)
    return F.rms_norm(x, x.shape[axis:], scale, _float(node, "epsilon", 1e-5))


def _gelu(node: ir.Node, x: Tensor) -> Tensor:
    approximate = (
        node.attributes["approximate"].as_string() if "approximate" in node.attributes else "none"
    )
    return F.gelu(x, approximate=approximate)


def _unsqueeze(node: ir.Node, x: Tensor, axes: Tensor | None = None) -> Tensor:
    along = _axes(node, axes) or []
    for axis in sorted(axis % (x.dim() + len(along)) for axis in along):
        x = x.unsqueeze(axis)
    return x


def _squeeze(node: ir.Node, x: Tensor, axes: Tensor | None = None) -> Tensor:
    along = _axes(node, axes)
    return x.squeeze() if along is None else x.squeeze(tuple(along))


def _shape(node: ir.Node, x: Tensor) -> Tensor:
    end = node.attributes["end"].as_int() if "end" in node.attributes else x.dim()
    return torch.tensor(x.shape[_int(node, "start", 0) : end], dtype=torch.int64)


def _expand(node: ir.Node, x: Tensor, shape: Tensor) -> Tensor:
    del node
    sizes: tuple[int, ...] = np.broadcast_shapes(tuple(x.shape), tuple(shape.tolist()))
    return x.expand(sizes)


def _split(node: ir.Node, x: Tensor, sizes: Tensor | None = None) -> Sequence[Tensor]:
    axis = _int(node, "axis", 0)
    if sizes is not None:
        return torch.split_with_sizes(x, sizes.tolist(), dim=axis)
    if "split" in node.attributes:  # before opset 13
        return torch.split_with_sizes(x, list(node.attributes["split"].as_ints()), dim=axis)
    return torch.split(x, -(-x.shape[axis] // len(node.outputs)), dim=axis)


def _pad(
    node: ir.Node, x: Tensor, pads: Tensor, value: Tensor | None = None, axes: Tensor | None = None
) -> Tensor:
    """ONNX names all beginnings, then all ends; PyTorch both of each axis, the last axis first."""
    mode = node.attributes["mode"].as_string() if "mode" in node.attributes else "constant"
    along = range(x.dim()) if axes is None else [int(axis) % x.dim() for axis in axes]
    by_axis = dict(zip(along, pads.reshape(2, -1).T.tolist(), strict=True))
    both = [n for axis in reversed(range(x.dim())) for n in by_axis.get(axis, (0, 0))]
    return F.pad(x, both, mode=mode, value=None if value is None else value.item())


def _cumsum(node: ir.Node, x: Tensor, axis: Tensor) -> Tensor:
    along = int(axis)
    x = x.flip(along) if _int(node, "reverse", 0) else x
    total = torch.cumsum(x, along, dtype=x.dtype)
    total = total - x if _int(node, "exclusive", 0) else total
    return total.flip(along) if _int(node, "reverse", 0) else total


_TYPES = {
    ir.DataType.FLOAT: torch.float32,
    ir.DataType.FLOAT16: torch.float16,
    ir.DataType.DOUBLE: torch.float64,
    ir.DataType.INT64: torch.int64,
    ir.DataType.INT32: torch.int32,
    ir.DataType.INT8: torch.int8,
    ir.DataType.UINT8: torch.uint8,
    ir.DataType.BOOL: torch.bool,
}


def _cast(node: ir.Node, x: Tensor) -> Tensor:
    return x.to(_TYPES[ir.DataType(node.attributes["to"].as_int())])


def _constant_of_shape(node: ir.Node, shape: Tensor) -> Tensor:
    if "value" not in node.attributes:
        return torch.zeros(shape.tolist())
    value = torch.tensor(node.attributes["value"].as_tensor().numpy())
    return value.reshape(()).expand(shape.tolist())


def _range(node: ir.Node, start: Tensor, limit: Tensor, step: Tensor) -> Tensor:
    del node
    return torch.arange(start.item(), limit.item(), step.item(), dtype=start.dtype)


def _div(node: ir.Node, a: Tensor, b: Tensor) -> Tensor:
    del node
    return a / b if a.is_floating_point() else torch.div(a, b, rounding_mode="trunc")


def _gemm(node: ir.Node, a: Tensor, b: Tensor, c: Tensor | None = None) -> Tensor:
    a = a.T if _int(node, "transA", 0) else a
    b = b.T if _int(node, "transB", 0) else b
    product = _float(node, "alpha", 1.0) * (a @ b)
    return product if c is None else product + _float(node, "beta", 1.0) * c


def _plain(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def op(node: ir.Node, *inputs: Any) -> Tensor:
        del node
        return function(*inputs)

    return op


OPS: dict[str, Callable[..., Any]] = {
    "Abs": _plain(torch.abs),
    "Add": _plain(torch.add),
    "And": _plain(torch.logical_and),
    "ArgMax": _arg_max,
    "Cast": _cast,
    "Ceil": _plain(torch.ceil),
    "Clip": _clip,
    "Concat": lambda node, *xs: torch.cat(xs, dim=_int(node, "axis", 0)),
    "ConstantOfShape": _constant_of_shape,
    "Cos": _plain(torch.cos),
    "CumSum": _cumsum,
    "Div": _div,
    "Equal": _plain(torch.eq),
    "Erf": _plain(torch.erf),
    "Exp": _plain(torch.exp),
    "Expand": _expand,
    "Floor": _plain(torch.floor),
    "Gather": _gather,
    "GatherElements": _gather_elements,
    "GatherND": _gather_nd,
    "Gelu": _gelu,
    "Gemm": _gemm,
    "Greater": _plain(torch.gt),
    "GreaterOrEqual": _plain(torch.ge),
    "Identity": _plain(lambda x: x),
    "LayerNormalization": _layer_norm,
    "Less": _plain(torch.lt),
    "LessOrEqual": _plain(torch.le),
    "Log": _plain(torch.log),
    "MatMul": _plain(torch.matmul),
    "Max": _plain(lambda *xs: functools.reduce(torch.maximum, xs)),
    "Min": _plain(lambda *xs: functools.reduce(torch.minimum, xs)),
    "Mul": _plain(torch.mul),
    "Neg": _plain(torch.neg),
    "Not": _plain(torch.logical_not),
    "Or": _plain(torch.logical_or),
    "Pad": _pad,
    "Pow": _plain(torch.pow),
    "RMSNormalization": _rms_norm,
    "Range": _range,
    "Reciprocal": _plain(torch.reciprocal),
    "ReduceL2": _reduce(lambda x, dims, keep: torch.linalg.vector_norm(x, dim=dims, keepdim=keep)),
    "ReduceMax": _reduce(lambda x, dims, keep: torch.amax(x, dim=dims, keepdim=keep)),
    "ReduceMean": _reduce(lambda x, dims, keep: torch.mean(x, dim=dims, keepdim=keep)),
    "ReduceSum": _reduce(lambda x, dims, keep: torch.sum(x, dim=dims, keepdim=keep)),
    "Relu": _plain(torch.relu),
    "Reshape": _reshape,
    "Shape": _shape,
    "Sigmoid": _plain(torch.sigmoid),
    "Sign": _plain(torch.sign),
    "Sin": _plain(torch.sin),
    "Slice": lambda node, x, starts, ends, axes=None, steps=None: _slice(
        node, x, starts, ends, axes, steps
    ),
    "Softmax": lambda node, x: torch.softmax(x, dim=_int(node, "axis", -1)),
    "Split": _split,
    "Sqrt": _plain(torch.sqrt),
    "Squeeze": _squeeze,
    "Sub": _plain(torch.sub),
    "Tanh": _plain(torch.tanh),
    "Tile": _plain(lambda x, repeats: x.tile(tuple(repeats.tolist()))),
    "Transpose": lambda node, x: x.permute(
        tuple(node.attributes["perm"].as_ints())
        if "perm" in node.attributes
        else tuple(reversed(range(x.dim())))
    ),
    "Unsqueeze": _unsqueeze,
    "Where": _plain(torch.where),
}
"""Each takes the node, for its attributes, and its input tensors; None stands for one left out."""
