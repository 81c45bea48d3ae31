"""Make and run Sentence Transformers' own fastest ONNX for a GPU: optimum's level O4, in fp16."""

import tempfile
from pathlib import Path

import numpy as np
import numpy.typing as npt

from pipeline.contracts import SourceModel
from pipeline.engines.torch import limit_length, run_modules
from pipeline.text.tokens import TokenBatch


class O4Encoder:
    """``SentenceTransformer(backend="onnx")`` with a graph that it exported and optimized itself.

    https://sbert.net/docs/sentence_transformer/usage/efficiency.html
    """

    max_tokens: int | None = None
    bucketed = False

    def __init__(self, source: SourceModel, *, device: str) -> None:
        """Export, optimize and open it; takes as long as that takes, and needs ``optimum``."""
        from sentence_transformers import SentenceTransformer, export_optimized_onnx_model

        self.name = "onnx_o4"
        self.device = device
        self._dimension = source.dimension
        provider = "CUDAExecutionProvider" if device == "cuda" else "CPUExecutionProvider"

        def opened(path: Path, **settings: object) -> SentenceTransformer:
            return SentenceTransformer(
                str(path),
                backend="onnx",
                device=device,
                local_files_only=True,
                trust_remote_code=source.trust_remote_code,
                model_kwargs={"provider": provider, **settings},
            )

        with tempfile.TemporaryDirectory() as directory:
            plain = opened(source.path, export=True)
            plain.save_pretrained(directory)
            export_optimized_onnx_model(plain, "O4", directory)
            self._model = opened(Path(directory), file_name="onnx/model_O4.onnx")
        limit_length(self._model, source.max_length)

    def encode(self, batch: TokenBatch) -> npt.NDArray[np.float32]:
        """Return the embeddings of a batch, float32 ``[batch, dim]``."""
        return run_modules(self._model, batch, self.device)[:, : self._dimension]
