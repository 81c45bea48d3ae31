import json
import random
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.contracts import SourceModel
from pipeline.engines.torch import load_sentence_transformer
from pipeline.errors import BundleError
from pipeline.text.tokens import Tokenizer, TokenRow, by_exact_length, by_length

ODD_TEXTS = {
    "plain": "A plain sentence, with punctuation!",
    "empty": "",
    "blank": " \t\n ",
    "emoji": "👩‍👩‍👧 😀🏳️‍🌈 ok",
    "control": "a\x00b\x07c\x1b[31m\u200b\ufeff\ufffd",
    "ten thousand words": "word " * 10_000,
    "one long word": "x" * 10_000,
    "cjk": "自然言語処理は楽しい。深度学习模型",
    "surrounding spaces": "   leading and trailing   ",
    "accents": "Crème brûlée, Ångström, e\u0301",
    "right to left": "مرحبا بالعالم שלום",
    "special tokens": "[CLS] [SEP] [PAD] [MASK] [UNK] </s>",
}


def make_rows(lengths: list[int]) -> list[TokenRow]:
    return [TokenRow(ids=(7,) * n, type_ids=(0,) * n) for n in lengths]


@pytest.fixture(scope="module")
def sentence_transformer(tiny_source: SourceModel) -> Any:
    return load_sentence_transformer(tiny_source.path, device="cpu", trust_remote_code=False)


@pytest.fixture
def left_tokenizer(tiny_source: SourceModel, tmp_path: Path) -> Tokenizer:
    """The tiny model's tokenizer, told to pad on the left with another token."""
    shutil.copyfile(tiny_source.assets / "tokenizer.json", tmp_path / "tokenizer.json")
    config = {"padding_side": "left", "pad_token": {"content": "[MASK]"}, "pad_token_type_id": 1}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    return Tokenizer(tmp_path, max_length=48)


def test_ordinary_ids_are_the_vocabulary_without_what_stands_for_something_else(
    tiny_source: SourceModel, tmp_path: Path
) -> None:
    stored = json.loads((tiny_source.assets / "tokenizer.json").read_text())
    vocabulary = stored["model"]["vocab"]
    size = len(vocabulary)
    vocabulary |= {"[unused7]": size, "<extra_id_0>": size + 1, "[": size + 2, "late": size + 3}
    (tmp_path / "tokenizer.json").write_text(json.dumps(stored))
    config = {"embedding_rows": size + 3}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    ids = set(Tokenizer(tmp_path, max_length=48).ordinary_ids().tolist())
    left_out = set(vocabulary.values()) - ids
    names = {token for token, i in vocabulary.items() if i in left_out}
    assert {"[CLS]", "[MASK]", "[unused7]", "<extra_id_0>", "late"} <= names
    assert all(name[0] + name[-1] in ("[]", "<>") for name in names - {"late"})
    assert {vocabulary[token] for token in ("[", "]", "the")} <= ids


@pytest.mark.parametrize("text", ODD_TEXTS.values(), ids=ODD_TEXTS.keys())
def test_ids_are_those_of_the_sentence_transformer(
    text: str, tiny_tokenizer: Tokenizer, sentence_transformer: Any
) -> None:
    expected = sentence_transformer.preprocess([text])["input_ids"][0].tolist()
    assert list(tiny_tokenizer.rows([text])[0].ids) == expected


def test_a_padded_batch_is_that_of_the_sentence_transformer(
    tiny_tokenizer: Tokenizer, sentence_transformer: Any
) -> None:
    texts = list(ODD_TEXTS.values())
    expected = sentence_transformer.preprocess(texts)
    batch = tiny_tokenizer.pad(tiny_tokenizer.rows(texts))
    for name in ("input_ids", "attention_mask", "token_type_ids"):
        np.testing.assert_array_equal(getattr(batch, name), expected[name].numpy(), name)


def test_a_text_is_truncated_to_max_length_with_its_special_tokens(
    tiny_source: SourceModel,
) -> None:
    (row,) = Tokenizer(tiny_source.assets, max_length=5).rows(["one two three four five six"])
    assert len(row.ids) == 5
    assert (row.ids[0], row.ids[-1]) == (101, 102)


def test_a_text_gets_the_same_row_alone_and_among_others(tiny_tokenizer: Tokenizer) -> None:
    texts = list(ODD_TEXTS.values())
    assert tiny_tokenizer.rows(texts) == [tiny_tokenizer.rows([text])[0] for text in texts]


def test_padding_on_the_right_by_default(tiny_tokenizer: Tokenizer) -> None:
    rows = [TokenRow(ids=(101, 102), type_ids=(0, 0)), TokenRow(ids=(5, 6, 7), type_ids=(0, 1, 1))]
    batch = tiny_tokenizer.pad(rows, length=4)
    assert batch.input_ids.tolist() == [[101, 102, 0, 0], [5, 6, 7, 0]]
    assert batch.attention_mask.tolist() == [[1, 1, 0, 0], [1, 1, 1, 0]]
    assert batch.token_type_ids.tolist() == [[0, 0, 0, 0], [0, 1, 1, 0]]
    assert batch.tokens == 5
    assert batch.input_ids.dtype == np.int64
    assert batch.attention_mask.dtype == np.int64
    assert batch.token_type_ids.dtype == np.int64


def test_padding_on_the_left_where_the_tokenizer_says_so(left_tokenizer: Tokenizer) -> None:
    rows = [TokenRow(ids=(101, 102), type_ids=(0, 0)), TokenRow(ids=(5, 6, 7), type_ids=(0, 0, 0))]
    batch = left_tokenizer.pad(rows)
    assert batch.input_ids.tolist() == [[103, 101, 102], [5, 6, 7]]
    assert batch.attention_mask.tolist() == [[0, 1, 1], [1, 1, 1]]
    assert batch.token_type_ids.tolist() == [[1, 0, 0], [0, 0, 0]]


def test_feed_gives_only_the_inputs_asked_for(tiny_tokenizer: Tokenizer) -> None:
    batch = tiny_tokenizer.pad(tiny_tokenizer.rows(["a"]))
    assert list(batch.feed(["attention_mask", "input_ids"])) == ["attention_mask", "input_ids"]


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json"])
def test_a_missing_tokenizer_file_is_a_bundle_error(
    name: str, tiny_source: SourceModel, tmp_path: Path
) -> None:
    for file in {"tokenizer.json", "tokenizer_config.json"} - {name}:
        shutil.copyfile(tiny_source.assets / file, tmp_path / file)
    with pytest.raises(BundleError, match="cannot read the tokenizer"):
        Tokenizer(tmp_path, max_length=48)


@pytest.mark.parametrize("batch_size", [1, 7, 64])
def test_by_length_covers_each_row_once_longest_first(batch_size: int) -> None:
    lengths = random.Random(0).choices(range(1, 50), k=100)
    batches = by_length(make_rows(lengths), batch_size)
    flat = [i for batch in batches for i in batch]
    assert sorted(flat) == list(range(100))
    assert [lengths[i] for i in flat] == sorted(lengths, reverse=True)
    assert max(len(batch) for batch in batches) <= batch_size


def test_by_length_fills_batches_of_equal_length() -> None:
    assert [len(batch) for batch in by_length(make_rows([9] * 20), 8)] == [8, 8, 4]


def test_by_length_ends_a_batch_early_rather_than_pad_much() -> None:
    lengths = [256, 250, 200, 190, 100, 90, 80, 79, 20, 20, 20]
    batches = by_length(make_rows(lengths), 8)
    assert [[lengths[i] for i in batch] for batch in batches] == [
        [256, 250, 200],
        [190, 100],
        [90, 80, 79],
        [20, 20, 20],
    ]


def test_by_length_bounds_the_tokens_of_a_batch() -> None:
    lengths = [60] * 5 + [10] * 25 + [5] * 3
    batches = by_length(make_rows(lengths), 8, max_tokens=100)
    assert [[lengths[i] for i in batch] for batch in batches] == [
        *[[60]] * 5,
        *[[10] * 8] * 3,
        [10, 5],
        [5, 5],
    ]


def test_by_exact_length_gives_batches_of_one_length_within_the_limits() -> None:
    lengths = random.Random(0).choices([1, 2, 3, 10, 99, 300], k=400)
    batches = by_exact_length(make_rows(lengths), max_tokens=200, max_batch=50)
    assert sorted(i for batch in batches for i in batch) == list(range(400))
    for batch in batches:
        (length,) = {lengths[i] for i in batch}
        assert len(batch) <= 50
        assert len(batch) * length <= 200 or len(batch) == 1


@pytest.mark.parametrize(("length", "padded"), [(1, 1), (16, 16), (17, 18), (33, 36), (47, 48)])
def test_padding_to_a_bucket(length: int, padded: int, tiny_tokenizer: Tokenizer) -> None:
    batch = tiny_tokenizer.pad(make_rows([length, 1]), bucketed=True)
    assert batch.input_ids.shape == (2, padded)
    assert batch.tokens == length + 1


def test_no_bucket_is_longer_than_the_model_takes(tiny_source: SourceModel) -> None:
    tokenizer = Tokenizer(tiny_source.assets, max_length=45)
    assert tokenizer.pad(make_rows([45]), bucketed=True).input_ids.shape == (1, 45)


def test_padding_on_to_whole_vectors_is_padding_that_much_at_once(
    tiny_tokenizer: Tokenizer, left_tokenizer: Tokenizer
) -> None:
    for tokenizer in (tiny_tokenizer, left_tokenizer):
        rows = tokenizer.rows(["one", "a few words more"])
        widened, once = tokenizer.pad(rows).widened(16), tokenizer.pad(rows, length=16)
        for name in ("input_ids", "attention_mask", "token_type_ids"):
            np.testing.assert_array_equal(getattr(widened, name), getattr(once, name))


@pytest.mark.parametrize(("length", "padded"), [(1, 16), (16, 16), (33, 40), (40, 40), (41, 41)])
def test_whole_vectors_end_where_the_model_does(
    length: int, padded: int, tiny_source: SourceModel
) -> None:
    tokenizer = Tokenizer(tiny_source.assets, max_length=40)
    batch = tokenizer.pad(make_rows([length, 1]))
    assert batch.widened(16).input_ids.shape == (2, padded)
    assert replace(batch, padding=None).widened(16).input_ids.shape == (2, length)


def test_no_rows_give_no_batches() -> None:
    assert by_length([], 8) == []
    assert by_exact_length([], max_tokens=8) == []


def test_ragged_texts_are_padded_as_rows_are(
    tiny_tokenizer: Tokenizer, left_tokenizer: Tokenizer
) -> None:
    texts = [*ODD_TEXTS.values(), "x" * 9000]
    for tokenizer in (tiny_tokenizer, left_tokenizer):
        for some in (texts[:-1], texts):  # a long text takes another way
            rows, ragged = tokenizer.rows(some), tokenizer.ragged(some)
            chosen = [len(some) - 1, 0, 2]
            for bucketed in (False, True):
                expected = tokenizer.pad([rows[i] for i in chosen], bucketed=bucketed)
                observed = tokenizer.pad_some(ragged, chosen, bucketed=bucketed)
                for name in ("input_ids", "attention_mask", "token_type_ids"):
                    np.testing.assert_array_equal(
                        getattr(observed, name), getattr(expected, name), name
                    )


def test_token_types_that_differ_within_a_text_are_kept(
    tiny_source: SourceModel, tmp_path: Path
) -> None:
    settings = json.loads((tiny_source.assets / "tokenizer.json").read_text())
    settings["post_processor"] = {
        "type": "TemplateProcessing",
        "single": [
            {"SpecialToken": {"id": "[CLS]", "type_id": 2}},
            {"Sequence": {"id": "A", "type_id": 1}},
        ],
        "pair": [{"Sequence": {"id": "A", "type_id": 1}}, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {"[CLS]": {"id": "[CLS]", "ids": [101], "tokens": ["[CLS]"]}},
    }
    shutil.copy(tiny_source.assets / "tokenizer_config.json", tmp_path)
    (tmp_path / "tokenizer.json").write_text(json.dumps(settings))
    tokenizer = Tokenizer(tmp_path, max_length=8)
    batch = tokenizer.pad_some(tokenizer.ragged(["a", "a b c"]), [0, 1])
    assert batch.token_type_ids.tolist() == [[2, 1, 0, 0], [2, 1, 1, 1]]
