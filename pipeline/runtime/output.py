"""Shape embeddings as they leave the encoder: fewer dimensions, normalized, in fewer bits.

Truncation, normalization and quantization are those of Sentence Transformers
(``truncate_embeddings``, ``torch.nn.functional.normalize``, ``quantize_embeddings``) on numpy
arrays, and float16 besides.
"""

import logging
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from pipeline.bundle.ranges import KnownRanges
from pipeline.vectors import FloatArray

log = logging.getLogger(__name__)


EmbeddingPrecision = Literal["float32", "float16", "int8", "uint8", "int8_dot", "binary", "ubinary"]

_DTYPES: dict[str, type[np.generic]] = {
    "float32": np.float32,
    "float16": np.float16,
    "int8": np.int8,
    "uint8": np.uint8,
    "int8_dot": np.int8,
    "binary": np.int8,
    "ubinary": np.uint8,
}
_RANGED = ("int8", "uint8", "int8_dot")
_SMALLEST_NORM = 1e-12
"""What a shorter vector is divided by: ``torch.nn.functional.normalize``."""

_ORDERED = "expected the smallest value, then the largest, both numbers"

FEW = 100
"""Ranges from fewer embeddings are warned of, as in Sentence Transformers."""


def quantize_embeddings(
    embeddings: npt.NDArray[Any],
    precision: EmbeddingPrecision,
    ranges: npt.NDArray[Any] | None = None,
    calibration_embeddings: npt.NDArray[Any] | None = None,
) -> npt.NDArray[Any]:
    """Return float embeddings ``[n, dim]`` in another precision.

    int8 and uint8 give each dimension 256 steps between the smallest and largest value in
    ``ranges`` ``[2, dim]``, else in ``calibration_embeddings`` ``[m, dim]``, else in the embeddings
    themselves. int8_dot has one step for all dimensions, the largest absolute value by 127, so that
    dot products and distances of levels are those of the embeddings. binary (int8) and ubinary
    (uint8) pack the signs of eight dimensions into a byte.

    Raises:
        ValueError: unknown precision, the embeddings are not floats, or ranges of another shape,
            not numbers, or the largest value first.
    """
    if precision not in _DTYPES:
        known = ", ".join(get_args(EmbeddingPrecision))
        raise ValueError(f"precision {precision!r}: expected one of {known}")
    if not np.issubdtype(embeddings.dtype, np.floating):
        raise ValueError(f"embeddings to quantize must be floats, got {embeddings.dtype}")
    if precision in ("float32", "float16"):
        return embeddings.astype(_DTYPES[precision], copy=False)
    if precision in ("binary", "ubinary"):
        signs = np.packbits(embeddings > 0, axis=-1)
        return signs if precision == "ubinary" else (signs ^ np.uint8(128)).view(np.int8)
    if ranges is None:
        seen = embeddings if calibration_embeddings is None else calibration_embeddings
        if len(seen) == 0:
            return np.empty(embeddings.shape, _DTYPES[precision])
        ranges = _ranges(seen, precision)
    if ranges.shape != (2, embeddings.shape[1]):
        raise ValueError(
            f"ranges of shape {list(ranges.shape)}: expected {[2, embeddings.shape[1]]}, the "
            "smallest and the largest value of each dimension"
        )
    bad = np.flatnonzero(~(np.isfinite(ranges).all(axis=0) & (ranges[0] <= ranges[1])))
    if len(bad):
        raise ValueError(f"ranges of dimension {bad[0]} {_shown(ranges, bad[0])}: {_ORDERED}")
    if precision == "int8_dot":
        return dot_levels(embeddings, ranges)
    steps = _steps(ranges)
    levels = np.clip(np.floor((embeddings - ranges[0]) / steps), 0, 255)
    levels = levels if precision == "uint8" else levels - 128
    return np.asarray(levels, _DTYPES[precision])


def dequantize_embeddings(levels: npt.NDArray[Any], ranges: npt.NDArray[Any]) -> FloatArray:
    """Return the values in the middle of int8 or uint8 levels' steps, float32 ``[n, dim]``."""
    from_zero = levels.astype(np.float32) + (128 if levels.dtype == np.int8 else 0)
    return np.asarray((from_zero + 0.5) * _steps(ranges) + ranges[0], np.float32)


def dot_levels(embeddings: npt.NDArray[Any], ranges: npt.NDArray[Any]) -> npt.NDArray[np.int8]:
    """Return embeddings in steps that are the same for all dimensions, int8 -127 to 127."""
    largest = float(np.abs(ranges).max())
    return np.asarray(np.clip(np.rint(embeddings * (127 / (largest or 1.0))), -127, 127), np.int8)


def _steps(ranges: npt.NDArray[Any]) -> npt.NDArray[Any]:
    steps = (ranges[1] - ranges[0]) / 255
    return np.where(steps == 0, 1, steps)


def _shown(ranges: npt.NDArray[Any], dimension: int) -> str:
    return f"[{ranges[0, dimension]:g}, {ranges[1, dimension]:g}]"


def _ranges(embeddings: npt.NDArray[Any], precision: str) -> npt.NDArray[Any]:
    if len(embeddings) < FEW:
        log.warning(
            "%s steps from %d embeddings: give ranges of more for vectors that keep their meaning",
            precision,
            len(embeddings),
        )
    return np.stack((embeddings.min(axis=0), embeddings.max(axis=0)))


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputForm:
    """What is asked of the embeddings; ``make_output_form`` checks it."""

    dimension: int
    normalize: bool
    precision: EmbeddingPrecision
    ranges: npt.NDArray[Any] | None

    @property
    def needs_all(self) -> bool:
        """Whether the steps depend on every embedding, so that none can leave before the last."""
        return self.precision in _RANGED and self.ranges is None

    def apply(self, embeddings: FloatArray) -> npt.NDArray[Any]:
        """Cut, then normalize, then quantize embeddings ``[n, dim]``."""
        if self.dimension < embeddings.shape[1]:
            embeddings = np.ascontiguousarray(embeddings[:, : self.dimension])
        if self.normalize:
            norms = np.linalg.norm(embeddings, axis=1, keepdims=True)
            embeddings = embeddings / np.maximum(norms, _SMALLEST_NORM)
        if self.precision == "float32":
            return embeddings
        return quantize_embeddings(embeddings, self.precision, self.ranges)


def make_output_form(
    full_dimension: int,
    truncate_dim: int | None,
    normalize: bool,
    precision: EmbeddingPrecision,
    ranges: npt.NDArray[Any] | None,
    known: KnownRanges | None = None,
) -> OutputForm:
    """Check what is asked for against the model's dimension.

    ``known`` are the bundle's ranges, for int8 and uint8 without ``ranges``.

    Raises:
        ValueError: a dimension that the model does not have, an unknown precision, or ranges that
            do not fit them.
    """
    dimension = full_dimension if truncate_dim is None else truncate_dim
    if not 1 <= dimension <= full_dimension:
        raise ValueError(f"truncate_dim={truncate_dim}: expected 1 to {full_dimension}")
    if ranges is not None and precision not in _RANGED:
        raise ValueError(f"ranges are for int8 and uint8 levels, not for precision {precision!r}")
    if ranges is not None and precision != "int8_dot" and ranges.shape == (2, dimension):
        flat = np.flatnonzero(ranges[0] == ranges[1])
        if len(flat):
            raise ValueError(
                f"ranges of dimension {flat[0]} {_shown(ranges, flat[0])} have no width: take them "
                "from more texts"
            )
    if ranges is None and known is not None and precision in _RANGED:
        if normalize and (dimension < full_dimension or not known.unit_length):
            raise ValueError(
                f"precision {precision!r} with normalize_embeddings: the bundle's ranges are of "
                "vectors as the model gives them, and these get another length; give ranges, "
                f"[2, {dimension}], of vectors made in this way, or leave normalize_embeddings out"
            )
        ranges = known.values[:, :dimension]
    if precision != "float32":  # on no rows: checks the precision and the shape of the ranges
        quantize_embeddings(np.empty((0, dimension), np.float32), precision, ranges)
    return OutputForm(dimension=dimension, normalize=normalize, precision=precision, ranges=ranges)
