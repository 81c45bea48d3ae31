"""Find out how many tokens at once an engine is fast on, by trying.

A GPU takes about as long for few tokens as for some more, until it is busy; from there on a larger
batch gains nothing, holds more memory and keeps whoever waits for it waiting.
"""

import logging
import time
from collections.abc import Callable, Sequence

from pipeline.errors import MeasureError

log = logging.getLogger(__name__)

SIZES = (1024, 2048, 4096, 8192, 16_384, 32_768)
"""Tokens in a batch."""

ENOUGH = 0.95
"""Share of the best rate at which a size will do."""

BUDGET_S = 1.0
"""No further size is tried once so much was spent: whoever loads an engine waits for it."""


def useful_tokens(
    seconds: Callable[[int], float],
    *,
    sizes: Sequence[int] = SIZES,
    budget_s: float = BUDGET_S,
    clock: Callable[[], float] = time.perf_counter,
) -> int:
    """Return the fewest tokens at once whose rate is nearly the best; the largest if none ran.

    ``seconds`` times a batch of so many tokens. Sizes are tried from the smallest on, until two in
    a row gain nothing, one fails (memory is full), or the budget is spent.
    """
    started = clock()
    rates: dict[int, float] = {}
    idle = 0
    for size in sizes:
        try:
            rate = size / seconds(size)
        except MeasureError as error:
            log.info("at most %d tokens at once: %s", max(rates, default=0), error)
            break
        idle = 0 if rate * ENOUGH > max(rates.values(), default=0.0) else idle + 1
        rates[size] = rate
        if idle == 2 or clock() - started > budget_s:
            break
    if not rates:
        return sizes[-1]
    return next(size for size in rates if rates[size] >= ENOUGH * max(rates.values()))
