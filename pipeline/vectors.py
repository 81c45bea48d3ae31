"""Compare and normalize rows of vectors; name the array types that everyone uses."""

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float32]
DoubleArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]


def row_cosines(a: FloatArray, b: FloatArray) -> DoubleArray:
    """Return the cosine of each row of ``a`` with the same row of ``b``, ``[n]``.

    A zero vector has cosine 0 with anything but another zero vector (1): pooling over no token
    gives one in reference and artifact alike. NaN stays NaN.
    """
    x, y = a.astype(np.float64), b.astype(np.float64)
    nx, ny = np.linalg.norm(x, axis=1), np.linalg.norm(y, axis=1)
    both_zero = (nx == 0) & (ny == 0)
    norm = np.where((nx == 0) | (ny == 0), 1.0, nx * ny)
    return np.where(both_zero, 1.0, (x * y).sum(axis=1) / norm)


def unit(vectors: FloatArray) -> FloatArray:
    """Return the vectors at length 1; a zero vector stays zero."""
    scaled: FloatArray = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    return scaled


def zero_where_not_finite(vectors: FloatArray) -> FloatArray:
    """Return the vectors with a zero vector in place of each that holds NaN or infinity."""
    finite = np.isfinite(vectors).all(axis=1, keepdims=True)
    return vectors if finite.all() else np.where(finite, vectors, np.float32(0))
