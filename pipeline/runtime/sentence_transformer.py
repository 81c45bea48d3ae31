"""Wrap a bundle in Sentence Transformers' own interface, for what takes a SentenceTransformer.

    from pipeline.runtime.sentence_transformer import as_sentence_transformer
    model = as_sentence_transformer("artifacts/minilm/int8")
    model.similarity(model.encode_query("…"), model.encode_document(["…"]))

MTEB, BERTopic and KeyBERT take one. Needs PyTorch, where ``pipeline.runtime.load`` does not.
"""

from pathlib import Path
from typing import Any

import torch
from sentence_transformers import SentenceTransformer, SimilarityFunction
from sentence_transformers.base.modules.input_module import InputModule

from pipeline.bundle.engines import open_parent
from pipeline.errors import BundleError
from pipeline.files import parse_json
from pipeline.runtime import load
from pipeline.runtime.encoder import TextEncoder
from pipeline.text.tokens import TokenBatch

_SETTINGS = "config_sentence_transformers.json"


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
        arrays = {name: features[name].numpy() for name in names}
        batch = TokenBatch(**arrays, padding=self.encoder.tokenizer.padding)
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
    return SentenceTransformer(
        modules=[BundleModule(encoder)],
        device="cpu",
        prompts=encoder.prompts or None,
        default_prompt_name=encoder.default_prompt,
        similarity_fn_name=_similarity(Path(directory)),
    )


def _similarity(directory: Path) -> str | None:
    """Return the similarity that the model's files name, checked as all files of a bundle are.

    Raises:
        BundleError: the file is not the one published, or names none that there is.
    """
    checker = open_parent(directory).checker
    if not checker.has(_SETTINGS):
        return None
    try:
        config = parse_json(checker.read(_SETTINGS))
        name = config.get("similarity_fn_name") if isinstance(config, dict) else None
        return None if name is None else SimilarityFunction(name).value
    except ValueError as error:
        raise BundleError(f"{directory / _SETTINGS}: {error}; publish the bundle again") from error
