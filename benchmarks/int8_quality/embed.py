"""Texts to embeddings, with one tokenizer and the same batches for every row."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from pipeline.config import Device
from pipeline.contracts import GRAPH_OUTPUT, SourceModel
from pipeline.engines import Encoder
from pipeline.engines.onnxruntime import open_session
from pipeline.engines.torch import TorchEncoder
from pipeline.runtime import TextEncoder
from pipeline.text.source_text import open_tokenizer
from pipeline.text.tokens import TokenBatch

FloatArray = npt.NDArray[np.float32]


class GraphEncoder:
    """Any ONNX graph of the model in ONNX Runtime on the CPU.

    Graphs that end in token embeddings are pooled here: mean over real tokens, then L2.
    """

    max_tokens: int | None = None
    bucketed = False

    def __init__(self, path: Path) -> None:
        """Open the graph."""
        self.name, self.device = "onnxruntime", "cpu"
        self._session = open_session(path)
        self._inputs = [i.name for i in self._session.get_inputs()]
        outputs = [o.name for o in self._session.get_outputs()]
        self._output = GRAPH_OUTPUT if GRAPH_OUTPUT in outputs else outputs[0]

    def encode(self, batch: TokenBatch) -> FloatArray:
        """Return the embeddings of a batch, float32 ``[batch, dim]``."""
        result: FloatArray = self._session.run([self._output], batch.feed(self._inputs))[0]
        if result.ndim == 3:
            return mean_pool(result, batch.attention_mask)
        return result.astype(np.float32)


def mean_pool(tokens: FloatArray, mask: npt.NDArray[np.int64]) -> FloatArray:
    """Return normalized means over real tokens, ``[batch, sequence, dim]`` to ``[batch, dim]``."""
    weights = mask[:, :, None].astype(np.float32)
    mean = (tokens * weights).sum(axis=1) / np.maximum(weights.sum(axis=1), 1e-9)
    unit: FloatArray = mean / np.maximum(np.linalg.norm(mean, axis=1, keepdims=True), 1e-12)
    return unit.astype(np.float32)


def embed(encoder: Encoder, source: SourceModel, texts: Sequence[str]) -> FloatArray:
    """Return one embedding a text in the order given; batches hold texts of similar length."""
    return TextEncoder(
        open_tokenizer(source),
        encoder,
        dimension=source.dimension,
        prompts=dict(source.prompts),
        default_prompt=source.default_prompt,
    ).encode(texts)


def embed_reference(source: SourceModel, texts: Sequence[str]) -> FloatArray:
    """Return what PyTorch computes in fp32."""
    return embed(TorchEncoder(source, device=Device.cpu), source, texts)
