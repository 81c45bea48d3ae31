"""Name the two 16-bit floating-point types and what sets them apart."""

from dataclasses import dataclass, replace

import ml_dtypes
import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from pipeline.config import NumericType
from pipeline.vectors import FloatArray


@dataclass(frozen=True, slots=True, kw_only=True)
class HalfType:
    """A 16-bit type: ``exact_sums`` keeps additions of two computed tensors in fp32.

    bf16 has fp32's range and 8 bits of fraction. A residual stream is a sum over all layers:
    each rounding of it stays in what every later layer reads.
    """

    precision: NumericType
    type: ir.DataType
    dtype: npt.DTypeLike
    largest: float
    exact_sums: bool

    @property
    def name(self) -> str:
        """What tensors and messages call it."""
        return self.precision.value

    def round(self, array: FloatArray) -> npt.NDArray[np.generic]:
        """Return the nearest numbers of the type; what is beyond its range becomes its largest."""
        rounded: npt.NDArray[np.generic] = np.clip(array, -self.largest, self.largest).astype(
            self.dtype
        )
        return rounded


FP16 = HalfType(
    precision=NumericType.fp16,
    type=ir.DataType.FLOAT16,
    dtype=np.float16,
    largest=float(np.finfo(np.float16).max),
    exact_sums=False,
)
BF16 = HalfType(
    precision=NumericType.bf16,
    type=ir.DataType.BFLOAT16,
    dtype=ml_dtypes.bfloat16,
    largest=(2 - 2.0**-7) * 2.0**127,
    exact_sums=False,
)
BF16_EXACT_SUMS = replace(BF16, exact_sums=True)
HALVES = (NumericType.fp16, NumericType.bf16)
