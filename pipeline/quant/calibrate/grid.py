"""Name the two grids that weights and activations are rounded to: int8's and E4M3's.

int8's numbers lie evenly, ±127 steps (the activations' end at -128). E4M3's (Micikevicius et al.,
"FP8 Formats for Deep Learning", arXiv:2209.05433, section 3) have three bits of fraction, from 2^-9
to 448: their error is a share of the number, so what is small costs little, wherever it lies.
"""

from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from pipeline.config import NumericType
from pipeline.vectors import FloatArray

Codes = npt.NDArray[Any]
"""Numbers of a grid in the type that the graph holds them in."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Grid:
    """A grid in units of its step; ``largest`` is what a step is chosen by.

    ``even``: its numbers lie evenly.
    """

    kind: NumericType
    type: ir.DataType
    dtype: npt.DTypeLike
    largest: np.float32
    even: bool

    def round(self, steps: FloatArray) -> FloatArray:
        """Return the nearest numbers within ± ``largest``, as fp32."""
        if self.even:
            whole: FloatArray = np.clip(np.rint(steps), -self.largest, self.largest)
            return whole
        clipped: FloatArray = np.clip(steps, -self.largest, self.largest)
        rounded: FloatArray = clipped.astype(self.dtype).astype(np.float32)
        return rounded

    def round_activation(self, steps: FloatArray) -> FloatArray:
        """Return what Q/DQ gives: as ``round``, though int8 reaches one step further down."""
        if not self.even:
            return self.round(steps)
        whole: FloatArray = np.clip(np.rint(steps), -self.largest - 1, self.largest)
        return whole

    def zeros(self, shape: tuple[int, ...] = ()) -> Codes:
        """Return zero points."""
        return np.zeros(shape, self.dtype)


INT8 = Grid(
    kind=NumericType.int8,
    type=ir.DataType.INT8,
    dtype=np.int8,
    largest=np.float32(127),
    even=True,
)
E4M3 = Grid(
    kind=NumericType.fp8,
    type=ir.DataType.FLOAT8E4M3FN,
    dtype=ml_dtypes.float8_e4m3fn,
    largest=np.float32(448),
    even=False,
)


def grid_of(kind: NumericType) -> Grid:
    """Return the grid of a precision that quantizes."""
    return {grid.kind: grid for grid in (INT8, E4M3)}[kind]
