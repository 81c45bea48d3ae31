"""Ranges that calibration text has not seen the end of are stretched, others are not."""

import numpy as np
import numpy.typing as npt
import pytest
from simulated import statistics_of as seen

from pipeline.config import ScaleMethod
from pipeline.quant.calibrate.scales import activation_scale, fake_quantize
from pipeline.quant.condition.headroom import Placement, is_heavy_tailed, place_steps, widen

CHANNELS = 32

FloatArray = npt.NDArray[np.float32]


def draw(seed: int, *shape: int) -> FloatArray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def firing(seed: int, tokens: int, height: float) -> FloatArray:
    """Channels that are near 0 but for one token in 250, where they reach ``height``."""
    values = 0.05 * draw(seed, tokens, CHANNELS)
    for channel in range(CHANNELS):
        values[channel::250, channel] = height
    return values


def place(
    fitted: FloatArray,
    held: FloatArray,
    headrooms: tuple[float, ...] = (1.0, 1.2, 1.4),
    *,
    shifts: bool = True,
) -> Placement:
    return place_steps(
        seen(fitted),
        seen(held),
        [draw(9, CHANNELS, 16)],
        headrooms,
        (0.9, 1.0),
        (ScaleMethod.max,),
        shifts=shifts,
        rounding_share=0.35,
    )


def test_widening_moves_each_end_by_its_distance_from_the_mean() -> None:
    tokens = np.array([[-1, 5], [0, 5], [0, 5], [5, 5]], np.float32)
    wider = widen(seen(tokens), 2)
    assert wider.low.tolist() == [-3, 5]
    assert wider.high.tolist() == [9, 5]
    np.testing.assert_array_equal(wider.sample, tokens)


def test_rare_firing_is_a_heavy_tail_and_noise_is_none() -> None:
    assert is_heavy_tailed(seen(firing(0, 500, 3)))
    assert not is_heavy_tailed(seen(draw(0, 5000, CHANNELS)))


def test_channels_that_never_change_have_no_tail() -> None:
    assert not is_heavy_tailed(seen(np.ones((10, CHANNELS), np.float32)))


@pytest.mark.parametrize("shifts", [False, True])
def test_held_back_text_that_goes_further_asks_for_room(shifts: bool) -> None:
    fitted, held = firing(0, 500, 3), firing(1, 500, 3.9)
    placed = place(fitted, held, shifts=shifts)
    assert placed.headroom == 1.4
    assert _error(placed, held) < 0.1 * _error(place(fitted, held, (1.0,), shifts=shifts), held)


def test_held_back_text_that_does_not_asks_for_none() -> None:
    """Room makes steps coarser: 1.4 times as far, twice the rounding error."""
    assert place(firing(0, 500, 3), firing(1, 500, 3)).headroom == 1.0


def test_light_tails_take_the_first_headroom_whatever_is_held_back() -> None:
    placed = place(draw(0, 500, CHANNELS), 1.3 * draw(1, 500, CHANNELS))
    assert placed.headroom == 1.0


def test_the_shift_is_that_of_the_stretched_range() -> None:
    fitted = firing(0, 500, 3)
    placed = place(fitted, firing(1, 500, 3.9))
    wider = widen(seen(fitted), placed.headroom)
    np.testing.assert_allclose(placed.shift, (wider.low + wider.high) / 2, rtol=1e-6)
    assert place(fitted, fitted, shifts=False).shift.tolist() == [0.0] * CHANNELS


def _error(placed: Placement, tokens: FloatArray) -> float:
    factors = placed.strength.factors
    step = activation_scale(placed.fitted.transformed(placed.shift, factors))
    exact = (tokens - placed.shift) / factors
    lost = (fake_quantize(exact, step) - exact) * factors
    return float(np.square(lost).sum())
