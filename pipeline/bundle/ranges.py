"""``embedding_ranges.npy``: between which values each dimension of a bundle's vectors lies.

With it a text has one int8 vector, whatever it is encoded with and on whichever machine.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.bundle.arrays import read_array
from pipeline.bundle.checker import Checker
from pipeline.contracts import EmbeddingRanges, sha256_file
from pipeline.errors import BundleError, PublishError
from pipeline.files import link_or_copy
from pipeline.vectors import FloatArray

RANGES = "embedding_ranges.npy"

_UNIT = 1e-3
"""Lengths that differ from 1 by less are 1 as far as a range is concerned."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownRanges:
    """Smallest and largest value of each dimension, float32 ``[2, dim]``.

    ``unit_length``: the vectors that they were taken from had length 1 as they came.
    """

    values: FloatArray
    unit_length: bool


def place_ranges(ranges: EmbeddingRanges, bundle: Path) -> dict[str, Any]:
    """Put the file into a bundle, and return what the manifest says of it.

    Raises:
        OSError: it cannot be written.
        PublishError: it is not what was measured.
    """
    link_or_copy(ranges.path, bundle / RANGES)
    if sha256_file(bundle / RANGES) != ranges.sha256:
        raise PublishError(f"{RANGES} changed after it was made; run again")
    return {
        "file": RANGES,
        "texts": ranges.texts,
        "norm": {"min": ranges.norm_min, "max": ranges.norm_max},
    }


def read_ranges(checker: Checker, manifest: Mapping[str, Any]) -> KnownRanges | None:
    """Return a bundle's ranges, the file checked; None where a bundle of before has none.

    Raises:
        BundleError: the file is not the one published, or not what it should be.
    """
    said = manifest.get("embedding_ranges")
    if said is None:
        return None
    content = checker.read(RANGES)
    shape = (2, manifest["model"]["dimension"])
    try:
        values = read_array(content, shape)
        if not (np.isfinite(values).all() and (values[0] <= values[1]).all()):
            raise ValueError("a smallest value above the largest, or not a number")
    except ValueError as error:
        raise BundleError(f"{RANGES}: no ranges: {error}; publish the bundle again") from error
    norm = said["norm"]
    unit = abs(norm["min"] - 1) < _UNIT and abs(norm["max"] - 1) < _UNIT
    return KnownRanges(values=values, unit_length=unit)
