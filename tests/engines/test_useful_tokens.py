"""How many tokens at once: engines on a simulated clock, whose time a token stops falling."""

from collections.abc import Callable, Sequence

import pytest

from pipeline.engines.sweep import SIZES, useful_tokens
from pipeline.errors import MeasureError


class Engine:
    """Takes ``floor`` seconds however little there is to do, and ``a_token`` for each token."""

    def __init__(self, floor: float, a_token: float, *, room: int = 1 << 30) -> None:
        self.floor, self.a_token, self.room = floor, a_token, room
        self.tried: list[int] = []
        self.now = 0.0

    def seconds(self, tokens: int) -> float:
        if tokens > self.room:
            raise MeasureError("ONNX Runtime could not run: out of memory")
        self.tried.append(tokens)
        took = max(self.floor, tokens * self.a_token)
        self.now += took
        return took

    def useful(self, budget_s: float = 1.0, sizes: Sequence[int] = SIZES) -> int:
        return useful_tokens(self.seconds, sizes=sizes, budget_s=budget_s, clock=lambda: self.now)


@pytest.mark.parametrize("busy", SIZES)
def test_as_many_as_keep_it_busy(busy: int) -> None:
    engine = Engine(busy * 1e-7, 1e-7)
    assert engine.useful() == busy
    assert max(engine.tried) <= 4 * busy  # two sizes that gain nothing end it


def test_one_that_is_never_busy_gets_all_it_takes() -> None:
    assert Engine(1.0, 1e-9).useful(budget_s=100) == SIZES[-1]


def test_one_that_is_always_busy_gets_little() -> None:
    engine = Engine(0.0, 1e-7)
    assert engine.useful() == SIZES[0]
    assert engine.tried == list(SIZES[:3])


def test_a_step_that_gains_nothing_does_not_end_it() -> None:
    """Kernels change with the size: rates have plateaus."""
    rates = {1024: 1.0, 2048: 1.02, 4096: 2.0, 8192: 2.01, 16_384: 2.02, 32_768: 9.0}
    take: Callable[[int], float] = lambda size: size / rates[size]  # noqa: E731
    assert useful_tokens(take, clock=lambda: 0.0) == 4096


def test_memory_that_is_full_ends_it() -> None:
    engine = Engine(1.0, 1e-9, room=4096)
    assert engine.useful(budget_s=100) == 4096


def test_nothing_that_ran_changes_nothing() -> None:
    assert Engine(1.0, 1e-9, room=1).useful() == SIZES[-1]


def test_a_slow_one_is_not_tried_for_long() -> None:
    engine = Engine(0.4, 1e-9)
    assert engine.useful() == 4096
    assert engine.tried == [1024, 2048, 4096]
