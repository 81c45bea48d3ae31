"""Simulate the int8 graph before it exists: the fp32 one in PyTorch, rounding as Q/DQ does.

Any subset of the GEMMs can be in int8, and gradients pass through the rounding (straight-through
estimator; Bengio et al., arXiv:1308.3432), those of the steps as in Esser et al., "Learned Step
Size Quantization", ICLR 2020 (arXiv:1902.08153), section 2.1.
"""

import math
from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
import torch

from pipeline.quant.calibrate.attention import AttentionGemm
from pipeline.quant.calibrate.scales import SMALLEST
from pipeline.quant.refine.torch_graph import Override, Tensor, TorchGraph
from pipeline.quant.round.quantized import QuantizedGroup
from pipeline.quant.round.tables import QuantizedTable
from pipeline.text.tokens import TokenBatch

_FREEDOM = 0.4
"""How far, in steps, a weight may start from the integer it was rounded to: on its own side."""


class Simulation:
    """A smoothed fp32 graph with the int8 form of its groups beside it."""

    def __init__(
        self,
        graph: ir.Graph,
        groups: Sequence[QuantizedGroup],
        attention: Sequence[AttentionGemm] = (),
        tables: Sequence[QuantizedTable] = (),
    ) -> None:
        """Take over graph and groups, which must not change while this is in use.

        ``attention`` are batch GEMMs, ``tables`` embeddings that are in int8 wherever a linear GEMM
        is.

        Raises:
            QuantizeError: the graph holds an operator that cannot be run here.
        """
        self._graph = TorchGraph(graph)
        self._outputs = list(graph.outputs)
        self.groups = [TrainableGroup(group) for group in groups]
        self._attached = {gemm.node: _attention_override(gemm) for gemm in attention}
        for table in tables:
            self._attached |= dict.fromkeys(table.lookups, _lookup_override(table))
        self._norms = [
            node.inputs[0]
            for node in graph
            if node.op_type in ("LayerNormalization", "RMSNormalization")
            and node.inputs[0] is not None
        ]

    @property
    def gemms(self) -> tuple[str, ...]:
        """The names of all GEMMs, in graph order."""
        return tuple(name for group in self.groups for name in group.names)

    def reload(self) -> None:
        """Start again from what the groups hold now."""
        self.groups = [TrainableGroup(group.quantized) for group in self.groups]

    def embed(self, batch: TokenBatch, int8: Collection[str] = ()) -> Tensor:
        """Return the embeddings of a batch, ``[batch, dim]``, with those GEMMs in int8."""
        with torch.no_grad():
            return self._graph.run(batch, self._outputs, self._overrides(int8))[0]

    def residuals(
        self, batch: TokenBatch, int8: Collection[str] = ()
    ) -> tuple[Tensor, list[Tensor]]:
        """Return the embeddings and what enters each norm, ``[batch, sequence, hidden]``."""
        embedding, *hidden = self._graph.run(
            batch, [*self._outputs, *self._norms], self._overrides(int8)
        )
        return embedding, hidden

    def _overrides(self, int8: Collection[str]) -> dict[ir.Node, Override]:
        wanted = frozenset(int8)
        if not wanted:
            return {}
        return self._attached | {
            node: override
            for group in self.groups
            for node, override in group.overrides(wanted).items()
        }


class HeldBack:
    """Held-back text with its fp32 embeddings, computed once."""

    def __init__(self, simulation: Simulation, batches: Sequence[TokenBatch]) -> None:
        """Embed the batches in fp32."""
        self._simulation = simulation
        self._known = [(batch, simulation.embed(batch)) for batch in batches]

    def mean_cosine(self, int8: Collection[str]) -> float:
        """Return the mean cosine to fp32 of embeddings with those GEMMs in int8."""
        cosines = [
            torch.cosine_similarity(self._simulation.embed(batch, int8), exact)
            for batch, exact in self._known
        ]
        return float(torch.cat(cosines).mean())


class TrainableGroup:
    """A group with its integers as real numbers in units of their step, as gradients need them."""

    def __init__(self, quantized: QuantizedGroup) -> None:
        """Start from the rounded weights, each on the side of its integer where it came from."""
        self.quantized = quantized
        self.names = tuple(part.gemm.name for part in quantized.gemms)
        self.log_step = torch.tensor(math.log(quantized.step))
        self.scales = [torch.from_numpy(part.scales) for part in quantized.gemms]
        self.weights = []
        for part in quantized.gemms:
            if not quantized.grid.even:
                self.weights.append(torch.from_numpy(part.integers.astype(np.float32)))
                continue
            lost = part.gemm.weight / part.scales - part.integers
            self.weights.append(torch.from_numpy(part.integers + lost.clip(-_FREEDOM, _FREEDOM)))
        self.biases = [torch.from_numpy(part.bias_delta.copy()) for part in quantized.gemms]
        self._read: tuple[Tensor, Tensor] | None = None

    def overrides(self, int8: Collection[str]) -> dict[ir.Node, Override]:
        """Return how the nodes of the wanted GEMMs and of their biases are computed."""
        self._read = None
        found: dict[ir.Node, Override] = {}
        for index, part in enumerate(self.quantized.gemms):
            if part.gemm.name not in int8:
                continue
            found[part.gemm.node] = self._gemm(index)
            if part.gemm.bias is not None:
                found[part.gemm.bias] = self._bias(index)
        return found

    @property
    def step(self) -> Tensor:
        """The step as the graph will have it, a number that fp16 holds; gradients pass through."""
        exact = self.log_step.exp()
        half = exact.detach().half().float().clamp(min=float(SMALLEST))
        return torch.where(half.isfinite(), exact + (half - exact).detach(), exact)

    def store(self) -> None:
        """Write the integers, step and bias back into the group."""
        self.quantized.step = np.float32(self.step.item())
        for part, weight, bias in zip(self.quantized.gemms, self.weights, self.biases, strict=True):
            part.integers = weight.detach().round().clamp(-127, 127).numpy().astype(np.int8)
            part.bias_delta = bias.detach().numpy().copy()

    def _gemm(self, index: int) -> Override:
        def compute(node: ir.Node, inputs: Sequence[Any]) -> Tensor:
            del node
            weight, scales = self.weights[index], self.scales[index]
            if self.quantized.grid.even:
                return self._rounded(inputs[0]) @ _round_weight(weight, scales)
            return self._rounded(inputs[0]) @ (weight * scales)

        return compute

    def _bias(self, index: int) -> Override:
        def compute(node: ir.Node, inputs: Sequence[Any]) -> Tensor:
            del node
            total: Tensor = inputs[0] + inputs[1]
            return total + self.biases[index]

        return compute

    def _rounded(self, value: Tensor) -> Tensor:
        """Round what the group reads, once for all its GEMMs."""
        if self._read is None or self._read[0] is not value:
            even = self.quantized.grid.even
            rounding = _round_activation if even else _round_e4m3
            self._read = (value, rounding(value, self.step))
        return self._read[1]


def _attention_override(gemm: AttentionGemm) -> Override:
    steps = [torch.tensor(step) for step in gemm.steps]
    rounding = _round_activation if gemm.grid.even else _round_e4m3

    def compute(node: ir.Node, inputs: Sequence[Any]) -> Tensor:
        del node
        left, right = map(rounding, inputs, steps)
        return left @ right

    return compute


def _lookup_override(table: QuantizedTable) -> Override:
    integers, scales = torch.from_numpy(table.integers), torch.from_numpy(table.scales)

    def compute(node: ir.Node, inputs: Sequence[Any]) -> Tensor:
        del node
        ids = torch.where(inputs[1] < 0, inputs[1] + len(scales), inputs[1])
        return integers[ids] * scales[ids].unsqueeze(-1)

    return compute


class _RoundActivation(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, value: Tensor, step: Tensor) -> Tensor:
        steps = value / step
        clipped = steps.clamp(-128, 127)
        whole = clipped.round()
        inside = steps == clipped
        if ctx.needs_input_grad[1]:
            ctx.save_for_backward(inside, whole - torch.where(inside, steps, torch.zeros(())))
        else:
            ctx.save_for_backward(inside)
        return whole * step

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor | None]:
        inside, *slope = ctx.saved_tensors
        if not slope:
            return gradient * inside, None
        of_step = (gradient * slope[0]).sum() / math.sqrt(inside.numel() * 127)
        return gradient * inside, of_step


class _RoundWeight(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, weight: Tensor, scales: Tensor) -> Tensor:
        ctx.save_for_backward(scales)
        return weight.round().clamp_(-127, 127) * scales

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (scales,) = ctx.saved_tensors
        return gradient * scales, None


def _round_activation(value: Tensor, step: Tensor) -> Tensor:
    rounded: Tensor = _RoundActivation.apply(value, step)  # type: ignore[no-untyped-call]
    return rounded


def _round_e4m3(value: Tensor, step: Tensor) -> Tensor:
    largest = torch.finfo(torch.float8_e4m3fn).max
    clipped = (value / step).clamp(-largest, largest)
    rounded: Tensor = clipped.to(torch.float8_e4m3fn).to(value.dtype) * step
    return rounded


def _round_weight(weight: Tensor, scales: Tensor) -> Tensor:
    rounded: Tensor = _RoundWeight.apply(weight, scales)  # type: ignore[no-untyped-call]
    return rounded
