"""The grid on a simulated clock: what a cell holds, and which ones there is time for."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pytest
from clock import Clock, install

from pipeline.errors import MeasureError
from pipeline.measure.speed.grid import (
    NO_PROFILE,
    NO_TIME,
    GridCell,
    grid_shapes,
    measure_grid,
)
from pipeline.measure.speed.side import Side
from pipeline.text.tokens import TokenBatch, TokenRow

ROWS = [
    TokenRow(ids=(101, 7, 8, 102), type_ids=(0, 0, 1, 1)),
    TokenRow(ids=(101, 9, 102), type_ids=(0, 0, 0)),
]


class PerToken:
    """An encoder that takes a time for each token, padding or not."""

    device = "cpu"
    max_tokens: int | None = None
    bucketed = False

    def __init__(self, clock: Clock, seconds: float, *, limit: int = 10**9) -> None:
        self.name = f"{seconds} s"
        self.clock = clock
        self.seconds = seconds
        self.limit = limit
        self.seen: list[TokenBatch] = []

    def encode(self, batch: TokenBatch) -> npt.NDArray[np.float32]:
        if batch.input_ids.size > self.limit:
            raise MeasureError("out of memory\nmore words")
        self.seen.append(batch)
        self.clock.now += self.seconds * batch.input_ids.size
        return np.zeros((len(batch.input_ids), 2), dtype=np.float32)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return install(monkeypatch)


def measure(
    reference: PerToken,
    *sides: Side,
    shapes: Sequence[tuple[int, int]],
    budget_s: float = 1e9,
) -> list[list[GridCell]]:
    return measure_grid(reference, sides, ROWS, shapes, narrow=0.05, budget_s=budget_s, seed=0)


def test_shapes_end_at_the_models_limit() -> None:
    assert grid_shapes([8, 1], [16, 64, 128], 48) == [(1, 16), (1, 48), (8, 16), (8, 48)]
    assert grid_shapes([1], [16, 64], 512) == [(1, 16), (1, 64)]
    assert grid_shapes([], [16], 512) == []


def test_a_cell_is_one_batch_whatever_a_pass_repeats(clock: Clock) -> None:
    # 8 tokens take 8 and 4 microseconds: far less than a pass lasts.
    side = Side(encoder=PerToken(clock, 5e-7))
    ((cell,),) = measure(PerToken(clock, 1e-6), side, shapes=[(2, 4)])
    assert (cell.batch, cell.sequence, cell.skipped) == (2, 4, None)
    assert cell.timing is not None
    assert cell.timing.reference_ms == pytest.approx(8e-3)
    assert cell.timing.ms == pytest.approx(4e-3)
    assert cell.timing.tokens_per_second == pytest.approx(2e6)
    assert cell.timing.speedup.median == pytest.approx(2)
    assert cell.timing.rounds == 6


def test_rows_are_full_of_the_texts_own_tokens(clock: Clock) -> None:
    reference = PerToken(clock, 1.0)
    measure(reference, Side(encoder=PerToken(clock, 1.0)), shapes=[(2, 5)])
    batch = reference.seen[0]
    assert batch.input_ids.tolist() == [[101, 7, 8, 102, 101], [9, 102, 101, 7, 8]]
    assert batch.token_type_ids.tolist() == [[0, 0, 1, 1, 0], [0, 0, 0, 0, 1]]
    assert batch.attention_mask.all()


def test_cheap_cells_come_first_and_the_rest_says_why_not(clock: Clock) -> None:
    # A token takes 2 s of both sides: 4 tokens in 6 rounds and a warm-up, some 56 s.
    side = Side(encoder=PerToken(clock, 1.0))
    shapes = [(1, 100), (1, 4), (2, 4), (2, 100)]
    (cells,) = measure(PerToken(clock, 1.0), side, shapes=shapes, budget_s=400)
    assert [(cell.batch, cell.sequence) for cell in cells] == shapes
    assert [cell.skipped for cell in cells] == [NO_TIME, None, None, NO_TIME]


def test_no_budget_no_cell(clock: Clock) -> None:
    side = Side(encoder=PerToken(clock, 1.0))
    (cells,) = measure(PerToken(clock, 1.0), side, shapes=[(1, 4)], budget_s=0)
    assert cells == [GridCell(batch=1, sequence=4, skipped=NO_TIME)]
    assert clock.now == 0


def test_cells_outside_every_profile(clock: Clock) -> None:
    plan = Side(
        encoder=PerToken(clock, 1.0, limit=8), takes=lambda batch, sequence: batch * sequence <= 8
    )
    free = Side(encoder=PerToken(clock, 0.5))
    of_plan, of_free = measure(PerToken(clock, 1.0), plan, free, shapes=[(1, 8), (2, 8)])
    assert [cell.skipped for cell in of_plan] == [None, NO_PROFILE]
    assert [cell.skipped for cell in of_free] == [None, None]
    assert of_free[1].timing is not None
    assert of_free[1].timing.speedup.median == pytest.approx(2)


def test_a_cell_that_fails_says_so_and_the_run_goes_on(clock: Clock) -> None:
    side = Side(encoder=PerToken(clock, 1.0, limit=8))
    (cells,) = measure(PerToken(clock, 1.0), side, shapes=[(2, 8), (1, 8)])
    assert [cell.skipped for cell in cells] == ["failed: out of memory", None]


def test_an_error_without_words_is_named_by_its_type(clock: Clock) -> None:
    class Full(PerToken):
        def encode(self, batch: TokenBatch) -> npt.NDArray[np.float32]:
            raise MemoryError

    (cells,) = measure(PerToken(clock, 1.0), Side(encoder=Full(clock, 1.0)), shapes=[(1, 4)])
    assert [cell.skipped for cell in cells] == ["failed: MemoryError"]
