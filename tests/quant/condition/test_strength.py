"""The strength and scale method with the least error on tokens that were held back."""

import numpy as np
import numpy.typing as npt
import pytest
from simulated import statistics_of as seen

from pipeline.config import ScaleMethod
from pipeline.quant.calibrate.scales import activation_scale, fake_quantize, weight_scales
from pipeline.quant.condition.smoothing import smoothing_factors
from pipeline.quant.condition.strength import Strength, choose_strength

CHANNELS = 32
NO_SHIFT = np.zeros(CHANNELS, np.float32)

FloatArray = npt.NDArray[np.float32]


def draw(seed: int, *shape: int) -> FloatArray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def choose(
    fitted: FloatArray,
    held: FloatArray,
    weight: FloatArray,
    alphas: tuple[float, ...] = (0.1, 0.5, 0.9),
    methods: tuple[ScaleMethod, ...] = (ScaleMethod.max,),
    rounding_share: float = 1.0,
) -> Strength:
    return choose_strength(
        seen(fitted),
        seen(held),
        [weight],
        NO_SHIFT,
        alphas,
        methods,
        rounding_share=rounding_share,
    )


def with_outlier(tokens: FloatArray, channel: int, factor: float) -> FloatArray:
    tokens = tokens.copy()
    tokens[:, channel] *= factor
    return tokens


def test_outliers_that_few_weights_read_ask_for_a_high_strength() -> None:
    fitted, held = (with_outlier(draw(seed, 500, CHANNELS), 3, 50) for seed in (0, 1))
    weight = draw(2, CHANNELS, 8)
    weight[3, 1:] = 0
    assert choose(fitted, held, weight).alpha == 0.9


def test_weights_that_would_become_outliers_ask_for_a_low_strength() -> None:
    """The activations are whole steps even beside the outlier; the weights would not be."""
    fitted, held = (with_outlier(np.sign(draw(s, 500, CHANNELS)), 3, 25.4) for s in (0, 1))
    weight = draw(2, CHANNELS, 8)
    weight /= np.abs(weight).max(axis=1, keepdims=True)
    assert choose(fitted, held, weight, alphas=(0.9, 0.5, 0.0)).alpha == 0


def test_a_better_rounding_of_the_weights_asks_for_a_higher_strength() -> None:
    fitted, held = (with_outlier(draw(seed, 500, CHANNELS), 3, 30) for seed in (0, 1))
    alphas = tuple(np.linspace(0, 1, 21).tolist())
    weight = draw(2, CHANNELS, 8)
    plain, clever = (choose(fitted, held, weight, alphas, rounding_share=s) for s in (1.0, 0.05))
    assert clever.alpha > plain.alpha


def test_the_percentile_wins_where_one_calibrated_value_is_far_out() -> None:
    fitted, held = draw(0, 1000, CHANNELS), draw(1, 500, CHANNELS)
    fitted[8, 3] = 100
    both = (ScaleMethod.max, ScaleMethod.percentile)
    chosen = choose(fitted, held, draw(2, CHANNELS, 8), alphas=(0.5,), methods=both)
    assert chosen.method is ScaleMethod.percentile


def test_what_clips_held_back_tokens_loses() -> None:
    """On the calibration tokens themselves the percentile is the better one, as above."""
    fitted, held = draw(0, 1000, CHANNELS), draw(1, 500, CHANNELS)
    fitted[8, 3] = 100
    held[::20, 3] = 95
    both = (ScaleMethod.percentile, ScaleMethod.max)
    chosen = choose(fitted, held, draw(2, CHANNELS, 8), alphas=(0.5,), methods=both)
    assert chosen.method is ScaleMethod.max


@pytest.mark.parametrize("seed", range(4))
def test_the_choice_has_the_least_error_of_all(seed: int) -> None:
    """By really rounding the weights, over GEMMs that share their activation."""
    random = np.random.default_rng(seed)
    sizes = 10.0 ** random.uniform(-1, 1, CHANNELS)
    fitted, held = (
        (draw(10 * seed + i, 400, CHANNELS) * sizes + 0.5).astype(np.float32) for i in (1, 2)
    )
    weights = [draw(10 * seed + i, CHANNELS, 64) for i in (3, 4)]
    shift, alphas = draw(seed, CHANNELS), (0.0, 0.25, 0.5, 0.75, 1.0)
    methods = (ScaleMethod.max, ScaleMethod.mse)

    def error(alpha: float, method: ScaleMethod) -> float:
        factors = smoothing_factors(seen(fitted).magnitude(shift), weights, alpha)
        step = activation_scale(seen(fitted).transformed(shift, factors), method)
        tokens, total = (held - shift) / factors, 0.0
        for weight in weights:
            smooth = weight * factors[:, None]
            scales = weight_scales(smooth)
            seen_as = fake_quantize(tokens, step) @ (np.rint(smooth / scales) * scales)
            lost = seen_as - tokens @ smooth
            total += float(lost.var(axis=0).sum() / (tokens @ smooth).var(axis=0).sum())
        return total

    errors = {(alpha, method): error(alpha, method) for alpha in alphas for method in methods}
    chosen = choose_strength(seen(fitted), seen(held), weights, shift, alphas, methods)
    assert errors[chosen.alpha, chosen.method] <= 1.1 * min(errors.values())
    assert max(errors.values()) > 1.5 * min(errors.values())
    expected = smoothing_factors(seen(fitted).magnitude(shift), weights, chosen.alpha)
    np.testing.assert_array_equal(chosen.factors, expected)
