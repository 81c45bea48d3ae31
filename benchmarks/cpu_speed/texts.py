"""The texts of each shape, and the calibration text of peers that ask for some."""

import itertools
import random
from collections.abc import Sequence
from pathlib import Path

from tokenizers import Tokenizer

from pipeline.config import DatasetConfig, DatasetFormat
from pipeline.text.datasets import load_dataset, spread

TOKENS = 128
"""Tokens of a fixed-length text, [CLS] and [SEP] counted in."""

NATURAL_POOL = 2048
FIXED_POOL = 256

SINGLE = "A man is playing a guitar on the street."


def calibration_texts() -> tuple[str, ...]:
    """Return the bundled sample set's calibration half; none of it is timed."""
    sample = load_dataset(DatasetConfig(name="sample", format=DatasetFormat.sample))
    return sample.calibration


def make_pools(stsb: Path | None, tokenizer_file: Path) -> dict[str, list[str]]:
    """Return the texts by pool: ``natural``, ``fixed``, ``single``, and ``probe``.

    Sentences are of STSb's test set, without it of the bundled sample's evaluation half, in an
    order drawn once, so that any first n of them are of all kinds and lengths. Texts of more than
    ``TOKENS`` tokens are left out: some libraries cut there, so work would differ. ``probe`` is one
    fixed-length text and the same without its last token.
    """
    tokenizer = Tokenizer.from_file(str(tokenizer_file))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    sentences = [s for s in _sentences(stsb) if len(tokenizer.encode(s).ids) <= TOKENS]
    random.Random(0).shuffle(sentences)
    fixed = fixed_texts(sentences, tokenizer, TOKENS)
    return {
        "natural": sentences,
        "fixed": fixed,
        "single": [SINGLE],
        "probe": [fixed[0], cut(fixed[0], tokenizer, TOKENS - 1)],
    }


def fixed_texts(sentences: Sequence[str], tokenizer: Tokenizer, tokens: int) -> list[str]:
    """Return different texts of exactly ``tokens`` tokens, made of consecutive sentences.

    Raises:
        ValueError: the sentences are too short or too few for one such text.
    """
    step = max(1, len(sentences) // FIXED_POOL)
    texts = []
    for start in range(0, len(sentences), step):
        following = itertools.chain(sentences[start:], sentences[:start])
        joined = " ".join(itertools.islice(following, tokens))
        text = cut(joined, tokenizer, tokens)
        if len(tokenizer.encode(text).ids) == tokens:
            texts.append(text)
    if not texts:
        raise ValueError(f"no text of {tokens} tokens comes of {len(sentences)} sentences")
    return list(dict.fromkeys(texts))[:FIXED_POOL]


def cut(text: str, tokenizer: Tokenizer, tokens: int) -> str:
    """Return the beginning of a text that makes ``tokens`` tokens, special tokens counted in."""
    special = tokenizer.num_special_tokens_to_add(is_pair=False)
    pieces = tokenizer.encode(text, add_special_tokens=False).offsets[: tokens - special]
    return text[: pieces[-1][1]]


def _sentences(stsb: Path | None) -> list[str]:
    if stsb is None:
        config = DatasetConfig(name="sample", format=DatasetFormat.sample)
    else:
        config = DatasetConfig(
            name="stsb",
            format=DatasetFormat.csv,
            path=str(stsb / "test.csv"),
            sentence1_column="sentence1",
            sentence2_column="sentence2",
            score_column="score",
        )
    return spread(load_dataset(config).evaluation, NATURAL_POOL)
