"""A bundle of a model with some tokenization, and the Sentence Transformer that it has to equal."""

from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import numpy as np
from light_bundle import write_bundle
from tokenized import Settings, save_tokenized

from pipeline.config import Exporter, ModelConfig
from pipeline.contracts import OnnxModel
from pipeline.runtime import TextEncoder, load
from pipeline.stages.export import export
from pipeline.stages.resolve import resolve
from pipeline.vectors import row_cosines

TEXTS = ("a first text", "another, longer than that", "The quick brown fox jumps over it.")


@dataclass(frozen=True, kw_only=True)
class Both:
    """The bundle's encoder, and the Sentence Transformer of the same files."""

    ours: TextEncoder
    theirs: Any

    def assert_equal(self, text: str, **prompt: Any) -> None:
        """Compare one text's vectors, alone in its batch."""
        self.assert_close(text, self.ours.encode([text], **prompt), **prompt)

    def assert_close(self, text: str, observed: Any, **prompt: Any) -> None:
        """Compare a vector with the Sentence Transformer's of the text alone in its batch."""
        expected = self.theirs.encode([text], batch_size=1, show_progress_bar=False, **prompt)
        assert row_cosines(expected, observed)[0] >= 0.99999, (text[:40], len(text), prompt)


@cache
def graph_of(encoder: str, pooling: str) -> OnnxModel:
    """Return the graph, which does not depend on how text becomes tokens."""
    root = Path(mkdtemp())
    saved = save_tokenized(Settings(encoder=encoder, pooling=pooling), root)
    source = resolve(ModelConfig(name="tiny", directory=str(saved)), root / "resolve")
    return export(source, Exporter.torch, TEXTS, root / "export")


def make_both(settings: Settings, root: Path, **config: Any) -> Both:
    """Resolve a model with these settings and make a bundle of it.

    Raises:
        PipelineError: it is refused.
    """
    from sentence_transformers import SentenceTransformer

    saved = save_tokenized(settings, root)
    source = resolve(ModelConfig(name="tiny", directory=str(saved), **config), root / "resolve")
    graph = replace(graph_of(settings.encoder, settings.pooling), source_sha256=source.sha256)
    bundle = write_bundle(root / "bundle", source, graph)
    theirs = SentenceTransformer(str(saved), device="cpu", model_kwargs={"dtype": "float32"})
    return Both(ours=load(bundle, engine="onnxruntime"), theirs=theirs)


def is_finite(vectors: Any) -> bool:
    """Whether there is something to compare."""
    return bool(np.isfinite(vectors).all())
