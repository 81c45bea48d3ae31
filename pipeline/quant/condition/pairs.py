"""Choose the channels that E4M3 loses most in, to read each of them twice, at two scales.

E4M3 rounds every number to a share of itself: no outlier sets the step of all others, but two
readings of a channel that round differently lose less than one. The first keeps two thirds of the
weights. Rounding the activation then leaves 5/9 of its variance. Both read the same value, so GPTQ
gives the second what rounding the first one's weights lost, and only the rounding of a third is
left: 1/9. (Halves would leave 1/2 and 1/4.)
"""

from collections.abc import Sequence

import numpy as np

from pipeline.quant.calibrate.statistics import Activation
from pipeline.quant.condition.splitting import activation_errors, count_copies
from pipeline.vectors import FloatArray, IntArray

FIRST_SHARE = 2 / 3
"""What the first of two readings gets of its channel's weights."""

SECOND_FACTOR = 2**0.5
"""What the second is divided by: half an octave lower, its fractions are others, and so are its
errors. Lower, since GPTQ rounds last what varies least, and the tensor's largest value stays."""


def energy_errors(observed: Activation, weights: Sequence[FloatArray]) -> FloatArray:
    """Return what rounding each channel costs at the outputs, in no unit, ``[channels]``.

    In E4M3 an error is a share of the value.
    """
    return activation_errors(np.sqrt(np.square(observed.sample).mean(axis=0)), weights)


def choose_pairs(errors: FloatArray, share: float) -> IntArray:
    """Return how often each channel appears, ``[channels]``: twice where most error is.

    There are no more pairs than channels.
    """
    copies = np.ones(len(errors), np.int64)
    added = count_copies(len(errors), share)
    copies[np.argsort(-errors, kind="stable")[:added]] = 2
    return copies
