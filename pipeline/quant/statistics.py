"""Watch what flows into each GEMM: per-channel ranges over real tokens.

Batches hold sentences of one length each, so there is no padding to pollute a range. Memory is
bounded by one batch, whatever the size of the calibration set.
"""

import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from pipeline.engines.onnxruntime import open_session
from pipeline.errors import QuantizeError
from pipeline.tokens import TokenBatch, Tokenizer, TokenRow, by_exact_length

FloatArray = npt.NDArray[np.float32]

MAX_TOKENS = 2048
"""Tokens a calibration batch holds at most; bounds memory at any calibration size."""


@dataclass(frozen=True, slots=True)
class ChannelRange:
    """Smallest and largest value of each channel of a tensor, ``[channels]`` each."""

    low: FloatArray
    high: FloatArray

    @property
    def magnitude(self) -> FloatArray:
        """Largest absolute value of each channel."""
        return np.maximum(np.abs(self.low), np.abs(self.high))

    def merge(self, other: "ChannelRange") -> "ChannelRange":
        """Return the range that covers both."""
        return ChannelRange(np.minimum(self.low, other.low), np.maximum(self.high, other.high))


def unpadded_batches(tokenizer: Tokenizer, rows: Sequence[TokenRow]) -> Iterator[TokenBatch]:
    """Yield batches without a single padding token."""
    for indices in by_exact_length(rows, max_tokens=MAX_TOKENS):
        yield tokenizer.pad([rows[i] for i in indices])


def channel_ranges(
    model: ir.Model, tensors: Sequence[ir.Value], batches: Iterable[TokenBatch]
) -> Mapping[str, ChannelRange]:
    """Run the graph in ONNX Runtime and return the range of each tensor's last axis, by name.

    Raises:
        QuantizeError: a tensor holds NaN or infinite values.
    """
    names = [tensor.name or "" for tensor in tensors]
    ranges: dict[str, ChannelRange] = {}
    outputs = list(model.graph.outputs)
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "observed.onnx"
        model.graph.outputs.extend(t for t in tensors if t not in outputs)
        try:
            ir.save(model, path)
        finally:
            del model.graph.outputs[len(outputs) :]
        session = open_session(path)
        inputs = [i.name for i in session.get_inputs()]
        for batch in batches:
            values = session.run(names, batch.feed(inputs))
            for name, value in zip(names, values, strict=True):
                flat = value.reshape(-1, value.shape[-1])
                seen = ChannelRange(flat.min(axis=0), flat.max(axis=0))
                if not (np.isfinite(seen.low).all() and np.isfinite(seen.high).all()):
                    raise QuantizeError(f"calibration: tensor {name} holds NaN or infinite values")
                ranges[name] = ranges[name].merge(seen) if name in ranges else seen
    return ranges
