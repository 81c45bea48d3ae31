"""One ``Encoder`` per runtime: padded token batches in, fp32 embeddings out."""

from typing import Protocol

import numpy as np
import numpy.typing as npt

from pipeline.tokens import TokenBatch


class Encoder(Protocol):
    """What every runtime's encoder offers."""

    name: str
    device: str

    def encode(self, batch: TokenBatch) -> npt.NDArray[np.float32]:
        """Return the embeddings of a batch, float32 ``[batch, dim]``."""
        ...
