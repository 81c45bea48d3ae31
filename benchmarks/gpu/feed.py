"""Text to vectors through ``encode``, beside tokenizing alone, and by how many tokens at once."""

import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

from benchmarks.gpu.sides import ENGINES, GpuSide
from benchmarks.gpu.tokenizing import parallelism
from pipeline.engines.cores import usable_cores
from pipeline.runtime.encoder import TextEncoder
from pipeline.runtime.windows import WINDOW_TEXTS
from pipeline.text.tokens import Tokenizer

SWEEP = (1024, 4096, 16_384, 32_768, 65_536)
"""Tokens in a batch, padding counted."""

TEXTS, QUICK_TEXTS, CPU_TEXTS = 120_000, 64, 2_000
PASSES = 3


def measure_text_to_vectors(
    sides: Mapping[str, GpuSide],
    tokenizer: Tokenizer,
    texts: Sequence[str],
    *,
    dimension: int,
    quick: bool,
) -> dict[str, Any]:
    """Return sentences per second of each of the bundle's engines that runs here, by batch size.

    ``as_is`` is what ``encode`` does by itself; ``sweep`` gives each number of tokens at once.
    ``tokenizing`` is the same texts tokenized and nothing else, on all cores: the faster of the
    library's own threads and of one of ours for each core. No feed is faster.
    """
    device = next(iter(sides.values())).encoder.device
    count = QUICK_TEXTS if quick else TEXTS if device == "cuda" else CPU_TEXTS
    many = [texts[i % len(texts)] for i in range(count)]
    passes = 1 if quick else PASSES
    found: dict[str, Any] = {
        "texts": count,
        "tokenizing": count / min(_tokenizing(tokenizer, many, passes)),
        "engines": {},
    }
    for name in ENGINES:
        if name not in sides:
            continue
        engine = sides[name].encoder
        encoder = TextEncoder(
            tokenizer, engine, dimension=dimension, prompts={}, default_prompt=None
        )
        encoder.encode(many[: count // 4])
        rate = count / _best(partial(encoder.encode, many), passes)
        before, sweep = engine.max_tokens, {}
        try:
            for tokens in SWEEP[:1] if quick or device == "cpu" else SWEEP:
                engine.max_tokens = tokens
                seconds = _best(partial(encoder.encode, many), passes)
                sweep[str(tokens)] = count / seconds
        finally:
            engine.max_tokens = before
        found["engines"][name] = {"as_is": rate, "tokens_at_once": before, "sweep": sweep}
    return found


def _tokenizing(tokenizer: Tokenizer, texts: Sequence[str], passes: int) -> list[float]:
    """Return the seconds it takes by the library's own threads, and by ours."""
    chunks = [texts[start : start + WINDOW_TEXTS] for start in range(0, len(texts), WINDOW_TEXTS)]

    def tokenize(chunk: Sequence[str]) -> object:
        return tokenizer.ragged(chunk)

    with parallelism("true"):
        theirs = _best(lambda: [tokenize(chunk) for chunk in chunks], passes)
    with parallelism("false"), ThreadPoolExecutor(usable_cores()) as pool:
        ours = _best(lambda: list(pool.map(tokenize, chunks)), passes)
    return [theirs, ours]


def _best(work: Callable[[], object], passes: int) -> float:
    seconds = []
    for _ in range(passes):
        started = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - started)
    return min(seconds)
