"""Copy the channels that E4M3 loses most in: each copied one once, at another scale.

E4M3 rounds every number to a share of itself. So no outlier sets the step of all others, and
splitting, which int8 uses against that, has another use: two copies of a channel that round
differently lose less than one. The first keeps two thirds of the weights. Rounding the activation
then leaves 5/9 of its variance. Both copies read the same value, so GPTQ gives the second what
rounding the first one's weights lost, and only the rounding of a third is left: 1/9. (Halves would
leave 1/2 and 1/4.)
"""

from collections.abc import Sequence

import numpy as np

from pipeline.quant.calibrate.statistics import Activation
from pipeline.quant.condition.splitting import MULTIPLE, activation_errors
from pipeline.vectors import FloatArray, IntArray

_SHARES = {1: (1.0,), 2: (2 / 3, 1 / 3)}
_FACTORS = {1: (1.0,), 2: (1.0, 2**0.5)}


def energy_errors(observed: Activation, weights: Sequence[FloatArray]) -> FloatArray:
    """Return what rounding each channel costs at the outputs, in no unit, ``[channels]``.

    In E4M3 an error is a share of the value.
    """
    return activation_errors(np.sqrt(np.square(observed.sample).mean(axis=0)), weights)


def choose_pairs(errors: FloatArray, share: float) -> IntArray:
    """Return how often each channel appears, ``[channels]``: twice where most error is.

    About ``share`` of the channels are added, a multiple of 32 (what tensor cores want).
    """
    copies = np.ones(len(errors), np.int64)
    added = min(MULTIPLE * round(share * len(errors) / MULTIPLE), len(errors))
    copies[np.argsort(-errors, kind="stable")[:added]] = 2
    return copies


def pair_shares(copies: IntArray) -> FloatArray:
    """Return what each copy gets of its channel's weights, ``[more]``."""
    return np.concatenate([_SHARES[count] for count in copies.tolist()]).astype(np.float32)


def pair_factors(copies: IntArray) -> FloatArray:
    """Return what to divide each copy by, ``[more]``: the second of two lies half an octave lower.

    Its fractions are others there, and so are its errors. Lower, since GPTQ rounds last what varies
    least, and the largest value of the tensor stays what it is.
    """
    return np.concatenate([_FACTORS[count] for count in copies.tolist()]).astype(np.float32)
