"""Give back to the bias what rounding the weights takes from the mean output.

Nagel et al., "Data-Free Quantization Through Weight Equalization and Bias Correction", ICCV 2019
(arXiv:1906.04721), section 4.2, with the mean measured on calibration text.
"""

import numpy as np
import numpy.typing as npt

from pipeline.quant.calibrate.grid import Codes
from pipeline.vectors import FloatArray


def bias_correction(
    mean: npt.NDArray[np.float64],
    weight: FloatArray,
    integers: Codes,
    scales: FloatArray,
) -> FloatArray:
    """Return what to add to the bias, ``[out]``.

    ``mean`` is the mean of what the GEMM reads, ``[in]``; ``integers`` (numbers of
    a grid) times ``scales`` the rounded form of ``weight``, both ``[in, out]``.
    """
    lost = weight.astype(np.float64) - integers.astype(np.float64) * scales.astype(np.float64)
    correction: FloatArray = (mean @ lost).astype(np.float32)
    return correction
