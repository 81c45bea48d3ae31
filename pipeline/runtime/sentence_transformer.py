"""Wrap a bundle in Sentence Transformers' own interface, for what takes a SentenceTransformer.

    from pipeline.runtime.sentence_transformer import as_sentence_transformer
    model = as_sentence_transformer("artifacts/minilm/int8")
    model.similarity(model.encode_query("…"), model.encode_document(["…"]))

MTEB, BERTopic and KeyBERT take one. Needs PyTorch, where ``pipeline.runtime.load`` does not.
"""

import json
from pathlib import Path
from typing import Any

import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules.input_module import InputModule

from pipeline.runtime import load
from pipeline.runtime.encoder import TextEncoder
from pipeline.text.tokens import TokenBatch


class BundleModule(InputModule):  # type: ignore[misc]
    """Text to ``sentence_embedding`` in one module: pooling and the rest are in the graph."""

    def __init__(self, encoder: TextEncoder) -> None:
        """Take a loaded bundle."""
        super().__init__()
        self.encoder = encoder
        self.max_seq_length = encoder.tokenizer.max_length

    def preprocess(
        self, inputs: list[Any], prompt: str | None = None, **_: Any
    ) -> dict[str, torch.Tensor]:
        """Tokenize as the bundle does."""
        tokenizer = self.encoder.tokenizer
        rows = tokenizer.rows(inputs, prompt or "")
        batch = tokenizer.pad(rows, bucketed=self.encoder.engine.bucketed)
        names = ("input_ids", "attention_mask", "token_type_ids")
        return {name: torch.from_numpy(getattr(batch, name)) for name in names}

    def forward(self, features: dict[str, Any], **_: Any) -> dict[str, Any]:
        """Run the bundle's engine."""
        names = ("input_ids", "attention_mask", "token_type_ids")
        batch = TokenBatch(**{name: features[name].numpy() for name in names})
        features["sentence_embedding"] = torch.from_numpy(self.encoder.engine.encode(batch))
        return features

    def get_embedding_dimension(self) -> int:
        """Return the embedding's dimension."""
        return self.encoder.dimension

    def save(self, output_path: str, *_: Any, **__: Any) -> None:
        """Refuse: a bundle is copied, not saved anew."""
        raise NotImplementedError(f"copy the bundle's directory to {output_path} instead")


def as_sentence_transformer(directory: str | Path, engine: str = "auto") -> Any:
    """Load a bundle as a ``SentenceTransformer`` with its prompts and similarity.

    Raises:
        BundleError: as ``pipeline.runtime.load``.
    """
    encoder = load(directory, engine)
    path = Path(directory) / "config_sentence_transformers.json"
    config = json.loads(path.read_text("utf-8")) if path.is_file() else {}
    return SentenceTransformer(
        modules=[BundleModule(encoder)],
        device="cpu",
        prompts=encoder.prompts or None,
        default_prompt_name=encoder.default_prompt,
        similarity_fn_name=config.get("similarity_fn_name"),
    )
