"""Run an ONNX graph in PyTorch, op by op, so that gradients can flow through it.

The operators are in ``torch_ops``.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import onnx_ir as ir
import torch

from pipeline.errors import QuantizeError
from pipeline.quant.refine.torch_ops import OPS
from pipeline.text.tokens import TokenBatch

Tensor = torch.Tensor
Override = Callable[[ir.Node, Sequence[Any]], Tensor]
"""Computes one node from its input tensors in place of the operator."""


class TorchGraph:
    """A graph whose nodes are computed by PyTorch; ``overrides`` replaces single nodes."""

    def __init__(self, graph: ir.Graph) -> None:
        """Take over the graph, which must not change while this is in use.

        Raises:
            QuantizeError: an operator that is not known here.
        """
        self._nodes = [node for node in graph if node.op_type != "Constant"]
        unknown = sorted({n.op_type for n in self._nodes} - OPS.keys())
        if unknown:
            raise QuantizeError(
                f"PyTorch cannot run the operators {', '.join(unknown)} of this graph; set "
                "precision.reconstruction_steps=0 and precision.target.cosine_mean=null"
            )
        self._inputs = {value.name or "": value for value in graph.inputs}
        self._constants = {
            value: torch.tensor(tensor.numpy())
            for node in graph
            for value in (*node.inputs, *node.outputs)
            if value is not None and (tensor := ir.convenience.get_const_tensor(value)) is not None
        }
        self._uses: dict[ir.Value, int] = {}
        for node in self._nodes:
            for value in node.inputs:
                if value is not None:
                    self._uses[value] = self._uses.get(value, 0) + 1

    def run(
        self,
        batch: TokenBatch,
        wanted: Sequence[ir.Value],
        overrides: Mapping[ir.Node, Override] | None = None,
    ) -> list[Tensor]:
        """Return the wanted values, computed on a batch."""
        overrides = overrides or {}
        known: dict[ir.Value, Any] = dict(self._constants)
        for name, array in batch.feed(list(self._inputs)).items():
            known[self._inputs[name]] = torch.from_numpy(array)
        left = dict(self._uses)
        for value in wanted:
            left[value] = left.get(value, 0) + 1
        for node in self._nodes:
            inputs = [None if value is None else known[value] for value in node.inputs]
            if node in overrides:
                result: Any = overrides[node](node, inputs)
            else:
                result = OPS[node.op_type](node, *inputs)
            results = [result] if isinstance(result, Tensor) else result
            known.update(zip(node.outputs, results, strict=False))
            for read in node.inputs:
                if read is not None:
                    left[read] -= 1
                    if not left[read] and read not in self._constants:
                        del known[read]
        return [known[value] for value in wanted]
