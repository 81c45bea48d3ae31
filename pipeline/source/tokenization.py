"""What a Sentence Transformer's own path does to a text, as far as a bundle's files can say it.

``SentenceTransformer.encode`` is more than a call of the tokenizer: ``sentence_bert_config.json``
may change how the tokenizer is called, and a chat template may make a message of every text. What
is read here is checked afterwards, text by text (``probes``); what cannot be said is refused.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.errors import ResolveError
from pipeline.text.wrapping import Wrapping

NO_LIMIT = 10**9
"""transformers writes 1e30 where a tokenizer states no limit."""

_MARK, _OTHER = "qwertz", "yxcvbn 1 2 3"
"""Texts that no template knows, and of which one does not end as the other."""

_SIZES = {"padding", "truncation", "max_length", "return_tensors"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Tokenization:
    """How the tokenizer is called: its limit if one is stated, its special tokens, the wrapping."""

    limit: int | None
    adds_special_tokens: bool
    splits_special_tokens: bool
    wrapping: Wrapping | None


def read_tokenization(model: Any, location: str) -> Tokenization:
    """Read it from the loaded model's first module.

    Raises:
        ResolveError: a chat template that is more than strings around a text, no pad token, or a
            limit that is no number.
    """
    first, tokenizer = model[0], model.tokenizer
    stated = getattr(first, "processing_kwargs", None) or {}
    if not all(isinstance(part, dict) for part in (stated, *dict(stated).values())):
        raise ResolveError(
            f"{location}: processing_kwargs in sentence_bert_config.json is {stated!r}, expected "
            "an object of objects"
        )
    call = call_settings(first)
    splits = call.get("split_special_tokens", getattr(tokenizer, "split_special_tokens", False))
    own = call.get("max_length", model.max_seq_length)
    if own is not None and (isinstance(own, bool) or not isinstance(own, int | float)):
        raise ResolveError(
            f"{location}: its max length is {own!r}, expected a whole number; correct it in "
            "sentence_bert_config.json and tokenizer_config.json"
        )
    if tokenizer.pad_token is None:
        raise ResolveError(
            f"{location}: its tokenizer has no pad token, without which Sentence Transformers "
            "itself encodes nothing: set one (model.tokenizer.pad_token = "
            "model.tokenizer.eos_token) and save the model again"
        )
    message = "message" in first.modalities
    _refuse_unembedded(model, location, with_special=call.get("add_special_tokens", True))
    return Tokenization(
        limit=None if own is None or own >= NO_LIMIT else int(own),
        adds_special_tokens=bool(call.get("add_special_tokens", True)) and not message,
        splits_special_tokens=bool(splits),
        wrapping=_read_wrapping(first, location) if message else None,
    )


def _refuse_unembedded(model: Any, location: str, *, with_special: bool) -> None:
    """Check that the tokens which pad a batch, or stand in every text, have embeddings.

    Raises:
        ResolveError: one has none: the tokenizer was given it, and the table was not enlarged.
    """
    tokenizer, rows = model.tokenizer, embedding_rows(model)
    around = _own_ids(tokenizer, "", special=True) if with_special else ()
    for use, ids in (("pads every batch", (tokenizer.pad_token_id,)), ("is in every text", around)):
        if max(ids, default=0) >= rows:
            raise ResolveError(
                f"{location}: {tokenizer.convert_ids_to_tokens(max(ids))!r} {use} and is token "
                f"{max(ids)}, the model has embeddings for {rows} tokens: Sentence Transformers "
                "itself fails. Enlarge the table (model[0].auto_model.resize_token_embeddings("
                "len(model.tokenizer))) or name a token that the model knows "
                "(model.tokenizer.pad_token = model.tokenizer.eos_token), and save the model again"
            )


def embedding_rows(model: Any) -> int:
    """Return how many tokens the model has embeddings for."""
    return int(model[0].auto_model.get_input_embeddings().weight.shape[0])


def call_settings(first: Any) -> dict[str, Any]:
    """Return what the first module calls its tokenizer with, beyond Sentence Transformers' own.

    For messages ``text`` goes over ``common``, and ``chat_template`` over both.
    """
    settings: Mapping[str, Any] = getattr(first, "processing_kwargs", None) or {}
    text, common = settings.get("text", {}), settings.get("common", {})
    if "message" not in first.modalities:
        return {**text, **common}
    sizes = {k: v for k, v in settings.get("chat_template", {}).items() if k in _SIZES}
    return {**common, **text, **sizes}


def unusual(model: Any) -> str:
    """Return the settings of a model that change how its texts become tokens, as words."""
    first, tokenizer = model[0], model.tokenizer
    found = {
        "modalities": [m for m in map(str, first.modalities) if m != "text"],
        "processing_kwargs": getattr(first, "processing_kwargs", None),
        **{key: getattr(first, key, None) for key in _BY_TASK},
        "split_special_tokens": getattr(tokenizer, "split_special_tokens", False),
        "truncation_side": tokenizer.truncation_side if tokenizer.truncation_side != "right" else 0,
        "tokenizer class": type(tokenizer).__name__,
    }
    return ", ".join(f"{key}={value!r}" for key, value in found.items() if value)


_BY_TASK = ("query_length", "document_length", "query_expansion")


def _read_wrapping(first: Any, location: str) -> Wrapping:
    """Find the strings that the chat template puts around a text and around a prompt."""

    def refuse(why: str) -> ResolveError:
        return ResolveError(
            f"{location}: makes a message of every text (modality 'message'), and its chat "
            f"template {why}: a bundle can only put strings around a text; drop the message from "
            "modality_config in sentence_bert_config.json if the model was trained on plain text"
        )

    def parts(text: str, prompt: str) -> list[str]:
        """Return what stands around a text and its prompt."""
        rendered = _render(first, text, prompt)
        found = []
        for mark in (prompt, text) if prompt else (text,):
            if rendered.count(mark) != 1:
                raise refuse(f"renders {text!r} as {rendered[:80]!r}")
            before, rendered = rendered.split(mark)
            found.append(before)
        return [*found, rendered]

    bare, after = parts(_MARK, "")
    before, between, behind = parts(_MARK, _OTHER)
    if behind != after:
        raise refuse("puts the prompt behind the text")
    trims = _render(first, f" \n{_MARK}\t ", "") == bare + _MARK + after
    return Wrapping(
        bare=bare,
        before=before,
        between=between,
        after=after,
        trims=trims,
        last_ids=_last_ids(first, bare, after),
    )


def _render(first: Any, text: str, prompt: str) -> str:
    """Return a text's message as the chat template renders it."""
    formatter = first.input_formatter
    _, inputs = formatter.batch_to_message("text", {"text": [text]})
    messages = inputs["message"]
    if prompt:
        messages = formatter.prepend_prompt_to_messages(messages, prompt)
    settings = first.processing_kwargs.get("chat_template", {})
    settings = {k: v for k, v in settings.items() if k not in _SIZES | {"restore_suffix"}}
    (rendered,) = first.tokenizer.apply_chat_template(messages, tokenize=False, **settings)
    return str(rendered)


def _last_ids(first: Any, bare: str, after: str) -> tuple[int, ...]:
    """Return the ids that end every message, whatever its text, if truncation is to keep them."""
    if not first.processing_kwargs.get("chat_template", {}).get("restore_suffix", True):
        return ()
    one, two = (
        _own_ids(first.tokenizer, bare + text + after) for text in ("0", "1 2 3 4")
    )  # the fillers that Sentence Transformers compares
    count = next(
        (i for i, (a, b) in enumerate(zip(reversed(one), reversed(two), strict=False)) if a != b), 0
    )
    return tuple(one[len(one) - count :])


def _own_ids(tokenizer: Any, text: str, *, special: bool = False) -> Sequence[int]:
    ids: Sequence[int] = tokenizer(text, add_special_tokens=special)["input_ids"]
    return ids
