"""What the CPU does before a GPU gets anything: tokenize and pad; and how much of it is padding."""

import contextlib
import os
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from pipeline.text.tokens import Tokenizer, TokenRow, by_length

_PARALLEL = "TOKENIZERS_PARALLELISM"


@contextlib.contextmanager
def parallelism(value: str) -> Iterator[None]:
    """Turn the tokenizers library's own threads on or off, which it looks at in every call."""
    before = os.environ.get(_PARALLEL)
    os.environ[_PARALLEL] = value
    try:
        yield
    finally:
        if before is None:
            del os.environ[_PARALLEL]
        else:
            os.environ[_PARALLEL] = before


def measure_tokenization(
    tokenizer: Tokenizer, texts: Sequence[str], *, batch_size: int, quick: bool
) -> dict[str, Any]:
    """Return texts and tokens per second of the product's tokenizer, and of padding its rows.

    On one core and on all; padding is one thread's work either way. The fastest of several passes.
    """
    rows = tokenizer.rows(texts)
    tokens = sum(len(row.ids) for row in rows)
    passes = 2 if quick else 7
    found: dict[str, Any] = {
        "texts": len(texts),
        "mean_tokens": tokens / len(texts),
        "cores": os.process_cpu_count() if hasattr(os, "process_cpu_count") else os.cpu_count(),
    }
    for name, value in (("one_core", "false"), ("all_cores", "true")):
        with parallelism(value):
            seconds = _best(lambda: tokenizer.rows(texts), passes)
        found[name] = {
            "texts_per_second": len(texts) / seconds,
            "tokens_per_second": tokens / seconds,
        }
    seconds = _best(lambda: _pad(tokenizer, rows, batch_size), passes)
    found["pad"] = {
        "texts_per_second": len(texts) / seconds,
        "tokens_per_second": tokens / seconds,
    }
    return found


def measure_padding(rows: Sequence[TokenRow], batch_sizes: Sequence[int]) -> dict[str, Any]:
    """Return the share of padding among all tokens, by batch size: what leaving it out could give.

    ``by_length`` is how the product batches, ``in_order`` takes the texts as they come.
    """
    return {
        str(size): {
            "by_length": _padding(rows, by_length(rows, size)),
            "in_order": _padding(
                rows,
                [list(range(i, min(i + size, len(rows)))) for i in range(0, len(rows), size)],
            ),
        }
        for size in batch_sizes
    }


def _padding(rows: Sequence[TokenRow], batches: Sequence[Sequence[int]]) -> float:
    real = sum(len(row.ids) for row in rows)
    cells = sum(len(batch) * max(len(rows[i].ids) for i in batch) for batch in batches)
    return 1 - real / cells


def _pad(tokenizer: Tokenizer, rows: Sequence[TokenRow], batch_size: int) -> None:
    for batch in by_length(rows, batch_size):
        tokenizer.pad([rows[i] for i in batch])


def _best(work: Callable[[], object], passes: int) -> float:
    work()
    return min(_seconds(work) for _ in range(passes))


def _seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start
