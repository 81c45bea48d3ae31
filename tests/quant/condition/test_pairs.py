"""Channels that E4M3 reads twice: which, and that two readings lose less than one."""

import numpy as np
from simulated import statistics_of

from pipeline.quant.calibrate.grid import E4M3
from pipeline.quant.calibrate.scales import fake_quantize, weight_scales
from pipeline.quant.condition.pairs import FIRST_SHARE, SECOND_FACTOR, choose_pairs
from pipeline.quant.round.rounding import round_gptq
from pipeline.vectors import IntArray


def test_pairs_are_of_the_channels_with_most_error() -> None:
    errors = np.random.default_rng(0).permutation(1000).astype(np.float32)
    for share, added in ((0.0, 0), (0.01, 0), (0.1, 96), (0.5, 512), (9.0, 1000)):
        copies = choose_pairs(errors, share)
        assert copies.max() <= 2
        assert sorted(errors[copies == 2]) == list(range(1000 - added, 1000))


def test_a_pair_leaves_five_ninths_of_an_activations_error_and_a_ninth_of_a_weights() -> None:
    random = np.random.default_rng(0)
    tokens = random.normal(size=(4000, 64)).astype(np.float32)
    weight = random.normal(size=(64, 32)).astype(np.float32)

    def errors(copies: IntArray) -> tuple[float, float]:
        """Return the variance at the output that rounding weights and activations brings."""
        order = np.repeat(np.arange(64), copies)
        second = np.concatenate([np.arange(count) for count in copies]) == 1
        factors = np.where(second, SECOND_FACTOR, 1).astype(np.float32)
        first = np.where(copies[order] > 1, FIRST_SHARE, 1)
        shares = np.where(second, 1 - first, first).astype(np.float32)
        seen = statistics_of(tokens[:, order] / factors)
        wide = weight[order] * (shares * factors)[:, None]
        scales = weight_scales(wide, E4M3)
        assert seen.covariance is not None
        codes = round_gptq(wide, scales, seen.covariance, noise=0.001, grid=E4M3)
        lost = seen.sample @ (codes.astype(np.float32) * scales) - tokens @ weight
        rounded = fake_quantize(seen.sample, np.float32(2**-6), E4M3) - seen.sample
        return float(lost.var()), float((rounded @ wide).var())

    alone, pairs = errors(np.full(64, 1)), errors(np.full(64, 2))
    assert pairs[0] < 0.15 * alone[0]
    assert 0.5 * alone[1] < pairs[1] < 0.6 * alone[1]
