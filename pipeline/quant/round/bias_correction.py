"""Give back to the bias what rounding takes from the mean output.

Nagel et al., "Data-Free Quantization Through Weight Equalization and Bias Correction", ICCV 2019
(arXiv:1906.04721), section 4.2, with the means measured on calibration text. Weights and
activations both take from it: behind GELU most values lie close below 0 and round to it.
"""

import numpy as np
import numpy.typing as npt

from pipeline.quant.calibrate.grid import Codes
from pipeline.vectors import FloatArray


def bias_correction(
    mean: npt.NDArray[np.float64],
    lost: FloatArray,
    weight: FloatArray,
    integers: Codes,
    scales: FloatArray,
) -> FloatArray:
    """Return what to add to the bias, ``[out]``.

    ``mean`` is the mean of what the GEMM reads, ``lost`` the mean of what rounding it takes away,
    both ``[in]``; ``integers`` (numbers of a grid) times ``scales`` the rounded form of ``weight``,
    both ``[in, out]``.
    """
    rounded = integers.astype(np.float64) * scales.astype(np.float64)
    correction: FloatArray = (mean @ (weight - rounded) + lost @ rounded).astype(np.float32)
    return correction
