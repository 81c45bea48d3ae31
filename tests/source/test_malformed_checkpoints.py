"""Checkpoints with something wrong in a file: one line that names it, before anything is made."""

import json
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file
from tokenized import ROWS, Settings, save_tokenized

from pipeline.config import ModelConfig
from pipeline.contracts import SourceModel
from pipeline.errors import PipelineError, ResolveError
from pipeline.stages.resolve import resolve


def edit(path: Path, **settings: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | settings))


def resolved(saved: Path, root: Path) -> SourceModel:
    return resolve(ModelConfig(name="tiny", directory=str(saved)), root / "resolve")


# Contents

MALFORMED: dict[str, tuple[str, str]] = {
    "a config of another kind": ("config.json", "[]"),
    "a config without a type": ("config.json", "{}"),
    "a type that is none": ("config.json", '{"model_type": 5}'),
    "an architecture that is none": ("config.json", '{"model_type": "bert", "hidden_size": "x"}'),
    "heads that do not divide": ("config.json", '{"model_type": "bert", "hidden_size": 33}'),
    "a pad token of no row": ("config.json", '{"model_type": "bert", "pad_token_id": 99999}'),
    "a dtype that is none": ("config.json", '{"model_type": "bert", "dtype": "float13"}'),
    "an empty tokenizer": ("tokenizer.json", "{}"),
    "a tokenizer of another kind": ("tokenizer.json", "[]"),
    "a tokenizer without a model": ("tokenizer.json", '{"version": "1.0", "model": null}'),
    "tokenizer settings of another kind": ("tokenizer_config.json", "[]"),
    "a setting of another kind": ("sentence_bert_config.json", '{"max_seq_length": "x"}'),
    "prompts of another kind": ("config_sentence_transformers.json", '{"prompts": 5}'),
    "a prompt that is no text": (
        "config_sentence_transformers.json", '{"prompts": {"query": "\\ud800"}}'
    ),
    "no dimensions": ("config_sentence_transformers.json", '{"truncate_dim": 0}'),
    "tokenizer arguments of another kind": (
        "sentence_bert_config.json", '{"processing_kwargs": {"text": ["x"]}}'
    ),
    "a default prompt of none": (
        "config_sentence_transformers.json",
        '{"prompts": {"a": "b"}, "default_prompt_name": "c"}',
    ),
    "a pooling that is none": (
        "1_Pooling/config.json", '{"embedding_dimension": 32, "pooling_mode": "median"}'
    ),
    "an unknown setting of pooling": (
        "1_Pooling/config.json", '{"embedding_dimension": 32, "pooling_mode": "mean", "x": 1}'
    ),
    "a pooling of another kind": ("1_Pooling/config.json", "[]"),
    "a pooling cut off": ("1_Pooling/config.json", '{"embedding'),
    "weights cut off": ("model.safetensors", ""),
    "weights of a header without end": ("model.safetensors", "\x7f" * 64),
    "not Unicode": ("config.json", "\udcff"),
    "nested too deeply": ("config.json", "[" * 100_000),
}  # fmt: skip


@pytest.mark.many
@pytest.mark.parametrize("name", MALFORMED)
def test_a_file_of_another_content_is_one_line(name: str, tmp_path: Path) -> None:
    file, content = MALFORMED[name]
    saved = save_tokenized(Settings(), tmp_path)
    (saved / file).write_bytes(content.encode(errors="surrogateescape"))
    with pytest.raises(PipelineError) as caught:
        resolved(saved, tmp_path)
    assert "\n" not in str(caught.value)


IGNORED = {
    "settings of another kind": ("sentence_bert_config.json", "[]"),
    "no pooling": (
        "1_Pooling/config.json",
        '{"word_embedding_dimension": 32, "pooling_mode_mean_tokens": false}',
    ),
}
"""What Sentence Transformers takes as if it were not there."""


@pytest.mark.slow
@pytest.mark.parametrize("name", IGNORED)
def test_what_sentence_transformers_does_without_is_no_error(name: str, tmp_path: Path) -> None:
    file, content = IGNORED[name]
    saved = save_tokenized(Settings(), tmp_path)
    (saved / file).write_text(content)
    assert resolved(saved, tmp_path).pooling == "mean"


# Tokens that every text or batch needs


def _renamed(saved: Path, **tokens: str) -> None:
    """Name tokens that the tokenizer is given for it, as ``add_special_tokens`` does."""
    from transformers import AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(str(saved))
    tokenizer.add_tokens([f"<unused{i}>" for i in range(ROWS - len(tokenizer))])
    tokenizer.add_special_tokens(tokens)
    tokenizer.save_pretrained(str(saved))


def test_a_pad_token_without_an_embedding_is_refused(tmp_path: Path) -> None:
    saved = save_tokenized(Settings(), tmp_path)
    _renamed(saved, pad_token="[PAD]")
    with pytest.raises(ResolveError, match=rf"'\[PAD\]' pads every batch and is token {ROWS},"):
        resolved(saved, tmp_path)


def test_a_token_of_every_text_without_an_embedding_is_refused(tmp_path: Path) -> None:
    saved = save_tokenized(Settings(), tmp_path)
    path = saved / "tokenizer.json"
    _renamed(saved, sep_token="<end>")
    content = json.loads(path.read_text())
    text = json.dumps(content["post_processor"]).replace("</s>", "<end>")
    number = next(t["id"] for t in content["added_tokens"] if t["content"] == "</s>")
    text = text.replace(f'"ids": [{number}]', f'"ids": [{ROWS}]')
    path.write_text(json.dumps(content | {"post_processor": json.loads(text)}))
    with pytest.raises(ResolveError, match=rf"'<end>' is in every text and is token {ROWS},"):
        resolved(saved, tmp_path)


@pytest.mark.parametrize("default", [None, "query"])
def test_a_prompt_without_an_embedding_is_refused(default: str | None, tmp_path: Path) -> None:
    saved = save_tokenized(Settings(), tmp_path)
    _renamed(saved, sep_token="<task>")
    path = saved / "config_sentence_transformers.json"
    edit(path, prompts={"query": "<task> "}, default_prompt_name=default)
    with pytest.raises(ResolveError, match=r"its prompt query \('<task> '\) holds '<task>'"):
        resolved(saved, tmp_path)


# Weights


def _without(saved: Path, *parts: str) -> None:
    path = saved / "model.safetensors"
    kept = {name: t for name, t in load_file(path).items() if not any(p in name for p in parts)}
    save_file(kept, path, {"format": "pt"})


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_weights_that_are_not_there_are_named(tmp_path: Path) -> None:
    """Each load would draw others, and each stage another model."""
    saved = save_tokenized(Settings(), tmp_path)
    _without(saved, "layer.1.attention")
    with pytest.raises(ResolveError, match=r"no weights for .*layer\.1\.attention.*saved whole"):
        resolved(saved, tmp_path)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_weights_that_nothing_reads_may_be_missing(tmp_path: Path) -> None:
    saved = save_tokenized(Settings(), tmp_path)
    _without(saved, "pooler")
    assert resolved(saved, tmp_path).dimension == 32
