"""PyTorch whose batches are replayed as CUDA graphs: what launches cost it, and nothing else.

One graph a shape, captured when it first comes
(https://docs.pytorch.org/docs/stable/notes/cuda.html#cuda-graphs).
"""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from unittest import mock

import numpy as np
import numpy.typing as npt
import torch

from pipeline.engines.torch import TorchEncoder
from pipeline.text.tokens import TokenBatch

MOST_SHAPES = 32
"""Graphs at a time; each holds the activations of its shape. Other shapes run as they are."""

Compute = Callable[[], torch.Tensor]
Capture = Callable[[Compute], tuple[Callable[[], object], torch.Tensor]]
"""Capture what a function computes; return what computes it again, and where the result is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Graph:
    inputs: dict[str, torch.Tensor]
    replay: Callable[[], object]
    output: torch.Tensor


def capture_on_cuda(compute: Compute) -> tuple[Callable[[], object], torch.Tensor]:
    """Capture on the current CUDA device."""
    stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):  # lets lazy state settle
            compute()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        output = compute()
    return graph.replay, output


class GraphedTorch:
    """A PyTorch encoder on a GPU, replayed."""

    max_tokens: int | None = None
    bucketed = False

    def __init__(self, encoder: TorchEncoder, *, capture: Capture = capture_on_cuda) -> None:
        """Share the encoder's weights; ``capture`` stands in for CUDA in tests."""
        self.name = encoder.name
        self.device = encoder.device
        self._encoder = encoder
        self._capture = capture
        self._graphs: dict[tuple[int, ...], _Graph] = {}

    @torch.inference_mode()
    def encode(self, batch: TokenBatch) -> npt.NDArray[np.float32]:
        """Return the embeddings of a batch, float32 ``[batch, dim]``."""
        shape = batch.input_ids.shape
        if shape not in self._graphs and len(self._graphs) >= MOST_SHAPES:
            return self._encoder.encode(batch)
        if shape not in self._graphs:
            self._graphs[shape] = self._make(batch)
        graph = self._graphs[shape]
        for name, tensor in graph.inputs.items():
            tensor.copy_(torch.from_numpy(getattr(batch, name)))
        graph.replay()
        result: npt.NDArray[np.float32] = graph.output.float().cpu().numpy()
        return result[:, : self._encoder.dimension].copy()

    def _make(self, batch: TokenBatch) -> _Graph:
        inputs = {
            name: torch.from_numpy(array).to(self.device, copy=True)
            for name, array in batch.feed(self._encoder.inputs).items()
        }
        model = self._encoder.model
        with without_mask_check():
            replay, output = self._capture(lambda: model(dict(inputs))["sentence_embedding"])
        return _Graph(inputs=inputs, replay=replay, output=output)


@contextlib.contextmanager
def without_mask_check() -> Iterator[None]:
    """Let transformers build SDPA's mask without asking whether it holds a zero.

    That question waits for the GPU, which a capture forbids; under ``torch.compile`` transformers
    does not ask it either.
    """
    name = "transformers.modeling_attn_mask_utils.is_torchdynamo_compiling"
    with mock.patch(name, return_value=True):
        yield
