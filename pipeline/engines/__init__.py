"""Define what every runtime offers: padded token batches in, fp32 embeddings out."""

from typing import Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from pipeline.text.tokens import TokenBatch


class Encoder(Protocol):
    """What every runtime's encoder offers, and the batches it is fast on.

    ``max_tokens`` bounds a batch, padding counted; where ``bucketed``, a new shape is costly and
    lengths are padded to ``pipeline.text.tokens.bucket``.
    """

    name: str
    device: str
    max_tokens: int | None
    bucketed: bool

    def encode(self, batch: TokenBatch) -> npt.NDArray[np.float32]:
        """Return the embeddings of a batch, float32 ``[batch, dim]``."""
        ...


@runtime_checkable
class SideBySide(Protocol):
    """What an encoder offers besides, where many batches are done sooner a few at a time."""

    lanes: int

    def encode_beside(self, batch: TokenBatch) -> npt.NDArray[np.float32]:
        """Encode as ``encode`` does, while up to ``lanes`` threads are in here."""
        ...
