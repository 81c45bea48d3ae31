"""``check/``: texts of all lengths and PyTorch fp32's vectors of them, the proof that travels.

A bundle is made on one machine and serves on others. With these, any of them can see for itself
that its vectors are the model's, without PyTorch, weights or data sets.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.bundle.arrays import read_array
from pipeline.bundle.checker import Checker
from pipeline.errors import BundleError
from pipeline.files import parse_json
from pipeline.vectors import FloatArray

TEXTS = "check/texts.json"
VECTORS = "check/vectors.npy"


@dataclass(frozen=True, slots=True, kw_only=True)
class Proof:
    """Texts ``[n]``, shortest first, and the reference's vectors of them ``[n, dim]``.

    ``gates`` are the least that an engine has to reach, by the names of the report's gates.
    """

    texts: Sequence[str]
    vectors: FloatArray
    gates: Mapping[str, float]


def write_proof(proof: Proof, bundle: Path) -> dict[str, Any]:
    """Write the files of a proof, and return what the manifest says of it.

    Raises:
        OSError: they cannot be written.
    """
    (bundle / TEXTS).parent.mkdir()
    content = json.dumps(list(proof.texts), indent=0, ensure_ascii=False) + "\n"
    (bundle / TEXTS).write_text(content, "utf-8")
    np.save(bundle / VECTORS, proof.vectors.astype("<f4"), allow_pickle=False)
    return {"n": len(proof.texts), "gates": dict(proof.gates)}


def read_proof(checker: Checker, manifest: Mapping[str, Any]) -> Proof:
    """Return a bundle's proof, its files checked.

    Raises:
        BundleError: the bundle has none, a file is not the one published, or not what it should be.
    """
    said = manifest["check"]
    if said is None:
        raise BundleError(
            f"{checker.path('tokenizer.json').parent}: no check texts in it: published with "
            "validate=off, or with validate.check_texts=0; publish it again to have them"
        )
    texts, vectors = checker.read(TEXTS), checker.read(VECTORS)
    try:
        said_texts = parse_json(texts)
        if not isinstance(said_texts, list) or not said_texts:
            raise ValueError(f"{TEXTS} is no list of texts")
        for text in said_texts:
            text.encode()  # half a surrogate pair, which JSON can spell, is no text
        shape = (len(said_texts), manifest["model"]["dimension"])
        proof = Proof(texts=said_texts, vectors=read_array(vectors, shape), gates=said["gates"])
    except (ValueError, AttributeError) as error:
        raise BundleError(f"{VECTORS}: no proof: {error}; publish the bundle again") from error
    return proof
