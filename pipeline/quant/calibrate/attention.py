"""Find attention's own GEMMs, and the steps of their inputs over the calibration text."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from pipeline.contracts import SourceModel
from pipeline.errors import ConfigError, QuantizeError
from pipeline.graph.files import constant
from pipeline.graph.observe import run_observed
from pipeline.quant.calibrate.grid import INT8, Grid
from pipeline.quant.calibrate.scales import representable
from pipeline.text.tokens import TokenBatch

MAX_SEQUENCE = 512


_BETWEEN = {"Add", "Mul", "Div", "Where"}


@dataclass(frozen=True, slots=True, kw_only=True)
class AttentionGemm:
    """A batch GEMM and the steps of its two inputs."""

    node: ir.Node
    steps: tuple[np.float32, np.float32]
    grid: Grid = INT8


def find_attention_gemms(graph: ir.Graph) -> list[ir.Node]:
    """Return the MatMuls of two computed tensors that lead to a Softmax or read one."""
    return [
        node
        for node in graph
        if node.op_type == "MatMul"
        and all(value is not None and constant(value) is None for value in node.inputs)
        and (_reads_softmax(node) or _leads_to_softmax(node))
    ]


def _reads_softmax(node: ir.Node) -> bool:
    producer = node.inputs[0].producer() if node.inputs[0] is not None else None
    return producer is not None and producer.op_type == "Softmax"


def _leads_to_softmax(node: ir.Node) -> bool:
    while node.op_type in _BETWEEN | {"MatMul"}:
        users = [use.node for use in node.outputs[0].uses()]
        if len(users) != 1:
            return False
        node = users[0]
        if node.op_type == "MatMul":
            return False
    return node.op_type == "Softmax"


def check_attention(source: SourceModel) -> None:
    """Refuse models whose attention TensorRT does not fuse in int8.

    Raises:
        ConfigError: the model takes more tokens than ``MAX_SEQUENCE``.
    """
    if source.max_length > MAX_SEQUENCE:
        raise ConfigError(
            f"precision.quantize_attention=true: {source.name} takes {source.max_length} tokens "
            f"and TensorRT fuses int8 attention up to {MAX_SEQUENCE} only, beyond that it is "
            f"slower than fp16; set it to false, or model.max_length={MAX_SEQUENCE}"
        )


def scale_attention(
    model: ir.Model, batches: Iterable[TokenBatch], grid: Grid = INT8
) -> list[AttentionGemm]:
    """Return a graph's attention GEMMs with steps that cover every calibrated value.

    Raises:
        QuantizeError: there are none, or an input holds NaN or infinite values.
    """
    nodes = find_attention_gemms(model.graph)
    if not nodes:
        raise QuantizeError(
            "no attention GEMM found in the graph; set precision.quantize_attention=false"
        )
    tensors = list({v.name: v for node in nodes for v in node.inputs if v is not None}.values())
    largest: dict[str, float] = {}
    for values in run_observed(model, tensors, batches):
        for name, value in values.items():
            # numpy's maximum keeps NaN, where max(0.0, nan) is 0.0
            largest[name] = float(np.maximum(largest.get(name, 0.0), np.abs(value).max()))
    broken = [name for name, value in largest.items() if not np.isfinite(value)]
    if broken:
        raise QuantizeError(f"calibration: tensor {broken[0]} holds NaN or infinite values")

    def step(value: ir.Value | None) -> np.float32:
        assert value is not None
        limit = np.full(1, largest[value.name or ""], np.float32)
        return np.float32(representable(limit / grid.largest)[0])

    return [
        AttentionGemm(node=node, steps=(step(node.inputs[0]), step(node.inputs[1])), grid=grid)
        for node in nodes
    ]
