"""A bundle encodes as ``SentenceTransformer.encode`` does, or its model is refused by name."""

from pathlib import Path
from typing import Any

import pytest
import tokenized
from own_path import make_both
from tokenized import CHATML, Settings

from pipeline.errors import ResolveError

LONG = "Text beyond the limit of the model, word by word. " * 20
TEXTS = {
    "plain": "A plain sentence, with punctuation!",
    "empty": "",
    "spaces": "  \n around \n ",
    "newline": "\nfirst",
    "special": "a [SEP] b </s> <s> [MASK]<|im_end|>",
    "markup": "<tool_response>x</tool_response> {{ x }}",
    "nul": "a\x00b",
    "astral": "👩‍👩‍👧 𝔘 ok",
    "long": LONG,
}
BYTES = Settings(kind="bytes", encoder="qwen", pooling="lasttoken", padding="left", frame="none")


def of(base: Settings, **changed: Any) -> Settings:
    return Settings(**({k: getattr(base, k) for k in base.__dataclass_fields__} | changed))


def call(**text: Any) -> dict[str, Any]:
    return {"processing_kwargs": {"text": text}}


HONOURED = {
    "a chat template": of(BYTES, template=CHATML),
    "a template that trims": of(BYTES, template=tokenized.TRIMMED),
    "a template with a system prompt of its own": of(BYTES, template=tokenized.DEFAULT_SYSTEM),
    "a template of structured content": of(BYTES, template=tokenized.STRUCTURED),
    "a template and a generation prompt": of(
        BYTES,
        template=CHATML,
        sentence={"processing_kwargs": {"chat_template": {"add_generation_prompt": True}}},
    ),
    "a template whose end is not put back": of(
        BYTES,
        template=CHATML,
        sentence={"processing_kwargs": {"chat_template": {"restore_suffix": False}}},
    ),
    "a template and a shorter limit": of(BYTES, template=CHATML, sentence=call(max_length=30)),
    "a template and prompts": of(
        BYTES,
        template=CHATML,
        saved={"prompts": {"query": "find: ", "empty": ""}, "default_prompt_name": "query"},
    ),
    "no special tokens": Settings(sentence=call(add_special_tokens=False)),
    "no special tokens, in common": Settings(
        sentence={"processing_kwargs": {"common": {"add_special_tokens": False}}}
    ),
    "a shorter limit": Settings(sentence=call(max_length=16)),
    "a shorter limit, in common": Settings(
        sentence={"processing_kwargs": {"common": {"max_length": 16}}}
    ),
    "split special tokens": Settings(kind="pieces", tokenizer={"split_special_tokens": True}),
    "split special tokens, by call": Settings(
        kind="pieces", sentence=call(split_special_tokens=True)
    ),
    "cut on the left": Settings(truncation="left"),
    "padding to a multiple": Settings(sentence=call(pad_to_multiple_of=8)),
    "lower case": Settings(kind="bytes", lower=True),
    "an added token that takes spaces": Settings(
        kind="bytes", added=({"content": "<tag>", "lstrip": True, "rstrip": True},)
    ),
}
REFUSED = {
    "a template that changes the text": (
        of(BYTES, template=tokenized.UPPER),
        "chat template renders 'qwertz'",
    ),
    "a prompt behind the text": (
        of(BYTES, template=tokenized.PROMPT_LAST),
        "chat template",
    ),
    "a template that looks at the text": (
        of(BYTES, template="{% if '{{' in messages[-1]['content'] %}odd{% endif %}" + CHATML),
        "other tokens of a text",
    ),
    "no truncation": (Settings(sentence=call(truncation=False)), "truncation"),
    "a limit of queries": (Settings(sentence={"query_length": 8}), "query_length"),
    "a limit of documents": (Settings(sentence={"document_length": 8}), "document_length"),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", HONOURED)
def test_what_can_be_honoured_is(name: str, tmp_path: Path) -> None:
    both = make_both(HONOURED[name], tmp_path)
    for kind, text in TEXTS.items():
        if kind == "empty" and "no special" in name:
            with pytest.raises(ValueError, match="text 0 has no tokens"):
                both.ours.encode([text])
            continue
        both.assert_equal(text)
        both.assert_equal(text, prompt="Of my own: ")
        for prompt in both.ours.prompts:
            both.assert_equal(text, prompt_name=prompt)


@pytest.mark.many
@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_is_refused_by_name(name: str, tmp_path: Path) -> None:
    settings, words = REFUSED[name]
    with pytest.raises(ResolveError) as caught:
        make_both(settings, tmp_path)
    assert words in str(caught.value)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["unigram", "bytes", "pieces", "marks", "words"])
@pytest.mark.parametrize("run", ["-", "=", "haha", "no no ", "日本語。"])
def test_long_runs(kind: str, run: str, tmp_path: Path) -> None:
    """Where a run of one word ends decides how it begins, with Unigram; others are read alike."""
    both = make_both(Settings(kind=kind), tmp_path)
    for length in (4097, 5001, 20_003):
        text = (run * length)[:length]
        both.assert_equal(text)
        both.assert_equal("a word before " + text)
