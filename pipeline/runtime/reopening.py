"""Load a bundle that is about to be published, as whoever serves it will, and encode with it."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.bundle.engines import EngineDirectory, Parent
from pipeline.bundle.proof import Proof
from pipeline.errors import BundleError, MeasureError, PublishError
from pipeline.runtime.loading import load
from pipeline.vectors import FloatArray, row_cosines

TEXTS = 8
SLACK, SHARE = 1e-3, 0.1
"""Other batches round otherwise, by a share of what rounding costs; another tokenizer or prompt is
off by far more."""


def require_reopened(
    parent: Parent,
    engines: Sequence[EngineDirectory],
    artifacts: Iterable[Mapping[str, Any]],
    proof: Proof | None,
) -> None:
    """Encode some of the proof's texts with each artifact that validation ran, from the bundle.

    ``artifacts`` are the report's. Validation saw all texts of the proof, so none may be further
    from the reference than its worst was. Where nothing was validated, one engine is opened.

    Raises:
        PublishError: the bundle does not load, or gives other vectors than validation saw.
    """
    ran = [artifact for artifact in artifacts if artifact["executed"]]
    worst = {a["name"]: float(a["agreement"]["cosine"]["min"]) for a in ran}
    pins = [engine.manifest_sha256 for engine in engines]
    text = "a sentence" if proof is None else proof.texts[-1]
    try:
        for name in worst or ("auto",):
            encoder = load(
                parent.root, name, manifest_sha256=parent.manifest_sha256, engine_sha256=pins
            )
            if proof is None:
                _require_vectors(encoder.encode([text]), name)
            else:
                step = max(1, len(proof.texts) // TEXTS)
                vectors = encoder.encode(list(proof.texts[::step]))
                _require_agreement(proof.vectors[::step], vectors, name, worst.get(name))
        for prompt in encoder.prompts:
            _require_vectors(encoder.encode([text], prompt_name=prompt), name)
    except (BundleError, MeasureError, ValueError) as error:
        raise not_loaded(parent.root, error) from error


def not_loaded(bundle: Path, error: Exception) -> PublishError:
    """Return the error of a bundle that is not put in place because it does not load."""
    words = str(error).replace(f"{bundle}/", "")
    return PublishError(
        f"the bundle that was to be published cannot be loaded: {words}; nothing was published"
    )


def _require_vectors(vectors: FloatArray, name: str) -> None:
    if not np.isfinite(vectors).all():
        raise PublishError(
            f"the bundle that was to be published gives vectors with NaN in {name}; nothing was "
            "published"
        )


def _require_agreement(
    expected: FloatArray, vectors: FloatArray, name: str, worst: float | None
) -> None:
    lowest = float(row_cosines(expected, vectors).min())
    if worst is not None and not lowest >= worst - SLACK - SHARE * (1 - worst):
        raise PublishError(
            f"the bundle that was to be published gives other vectors in {name} than validation "
            f"saw: a cosine of {lowest:.6f} to PyTorch fp32, where the lowest was {worst:.6f}; "
            "nothing was published: a file changed meanwhile, run again"
        )
