"""tokens: of a long text only the beginning is read, and the tokens are those of the whole."""

import json
import random
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from pipeline.contracts import SourceModel
from pipeline.text import tokens as module
from pipeline.text.datasets import Dataset
from pipeline.text.tokens import Tokenizer

KINDS = ["wordpiece", "byte_bpe", "unigram", "spm_bpe"]
MAX_LENGTH = 48


def train(kind: str, texts: Sequence[str]) -> Any:
    """Return a small tokenizer of the kind that BERT, GPT-2, XLM-R or Gemma have."""
    library = import_module("tokenizers")
    parts, special = library.pre_tokenizers, ["<pad>", "<unk>"]
    if kind == "byte_bpe":
        tokenizer = library.Tokenizer(library.models.BPE())
        tokenizer.pre_tokenizer = parts.ByteLevel()
        trainer: Any = library.trainers.BpeTrainer(
            vocab_size=800, special_tokens=special, show_progress=False
        )
    elif kind == "unigram":
        tokenizer = library.Tokenizer(library.models.Unigram())
        tokenizer.normalizer = library.normalizers.NFKC()
        tokenizer.pre_tokenizer = parts.Metaspace()
        trainer = library.trainers.UnigramTrainer(
            vocab_size=600, special_tokens=special, unk_token="<unk>", show_progress=False
        )
    else:  # merges reach across words
        tokenizer = library.Tokenizer(library.models.BPE(unk_token="<unk>"))
        tokenizer.normalizer = library.normalizers.Replace(" ", "▁")
        trainer = library.trainers.BpeTrainer(
            vocab_size=800, special_tokens=special, show_progress=False
        )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


@pytest.fixture(scope="module", params=KINDS)
def directory(
    request: pytest.FixtureRequest,
    tiny_source: SourceModel,
    sample: Dataset,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """Where a tokenizer of each kind is."""
    if request.param == "wordpiece":
        return tiny_source.assets
    directory = tmp_path_factory.mktemp(request.param)
    train(request.param, sample.calibration[:300]).save(str(directory / "tokenizer.json"))
    (directory / "tokenizer_config.json").write_text('{"pad_token": "<pad>"}')
    return directory


def whole(directory: Path, text: str, *, max_length: int, side: str = "right") -> tuple[int, ...]:
    """Return the ids of a text that the library alone reads to its end."""
    library = import_module("tokenizers")
    tokenizer = library.Tokenizer.from_file(str(directory / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.enable_truncation(max_length, direction=side)
    return tuple(tokenizer.encode(text).ids)


class Watched:
    """The library, with a tokenizer that notes how long the texts are that it is handed."""

    def __init__(self) -> None:
        self.longest = 0

    def from_file(self, path: str) -> "Watched":
        self.inner = import_module("tokenizers").Tokenizer.from_file(path)
        return self

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    def encode_batch(self, texts: list[str]) -> Any:
        self.longest = max(self.longest, *map(len, texts))
        return self.inner.encode_batch(texts)

    encode_batch_fast = encode_batch


def long_texts(sample: Dataset) -> dict[str, str]:
    """Return texts of tens of thousands of characters, each a trap for who cuts them."""
    picker = random.Random(0)
    prose = " ".join(picker.choices(sample.evaluation, k=500))
    return {
        "prose": prose,
        "words of thousands": " ".join(picker.choice("abcdef") * 3000 for _ in range(15)),
        "one word": "x" * 40_000,
        "whitespace": " \n\t" * 12_000,
        "a word behind whitespace": " " * 20_000 + "late " * 100,
        "emoji": "👩‍👩‍👧‍👦 " * 4_000,
        "marks": "e\u0301\u0323" * 12_000,
        "no spaces": "日本語の文章です。" * 4_000,
        "a word across the first look": ("a " * 45).ljust(4093) + "internationalization " * 900,
        "long lines": prose.replace(" ", "\r\n" * 40),
    }


@pytest.mark.slow
def test_tokens_are_those_of_the_whole_text(directory: Path, sample: Dataset) -> None:
    tokenizer = Tokenizer(directory, max_length=MAX_LENGTH)
    texts = [*long_texts(sample).values(), "short"]
    for text, row in zip(texts, tokenizer.rows(texts), strict=True):
        assert row.ids == whole(directory, text, max_length=MAX_LENGTH), text[:20]
        assert len(row.ids) == len(row.type_ids)


def test_little_is_read_of_prose(
    tiny_source: SourceModel, sample: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    watched = Watched()
    monkeypatch.setattr(module, "FastTokenizer", watched)
    tokenizer = Tokenizer(tiny_source.assets, max_length=MAX_LENGTH)
    (row,) = tokenizer.rows([long_texts(sample)["prose"] * 10])
    assert len(row.ids) == MAX_LENGTH
    assert watched.longest == 4096


def test_a_text_that_never_fills_the_model_ends_somewhere(
    tiny_source: SourceModel, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module, "LONGEST", 20_000)
    watched = Watched()
    monkeypatch.setattr(module, "FastTokenizer", watched)
    tokenizer = Tokenizer(tiny_source.assets, max_length=MAX_LENGTH)
    (row,) = tokenizer.rows(["word" + " " * 90_000 + "late"])
    assert watched.longest == 20_000
    assert row == tokenizer.rows(["word"])[0]
    assert "a text of over 20000 characters ends there" in caplog.text


@pytest.mark.slow
def test_a_text_that_is_cut_on_the_left_is_read_to_its_end(
    tiny_source: SourceModel, tmp_path: Path
) -> None:
    (tmp_path / "tokenizer.json").write_bytes((tiny_source.assets / "tokenizer.json").read_bytes())
    config = json.loads((tiny_source.assets / "tokenizer_config.json").read_text())
    (tmp_path / "tokenizer_config.json").write_text(
        json.dumps(config | {"truncation_side": "left"})
    )
    tokenizer = Tokenizer(tmp_path, max_length=8)
    text = "first " * 50_000 + "the very last words"
    (row,) = tokenizer.rows([text])
    assert row.ids == whole(tmp_path, text, max_length=8, side="left")
    assert row.ids[-5:-1] == tokenizer.rows(["the very last words"])[0].ids[1:-1]
