"""Compare what a bundle makes of texts with ``SentenceTransformer.encode`` itself, text by text.

Export and validation feed both sides from one tokenizer, so they cannot see that it is another
than the Sentence Transformer's. These probes can: its ids and vectors come from its own path.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from pipeline.engines.torch import run_modules
from pipeline.errors import ResolveError
from pipeline.source.tokenization import unusual
from pipeline.text.tokens import FIRST_LOOK, TokenBatch, Tokenizer, TokenRow
from pipeline.vectors import row_cosines

MIN_COSINE = 0.99999

UNKNOWN_PROMPT = "A prompt that no file names: "

SHORT = {
    "plain": "A plain sentence, with punctuation!",
    "one letter": "a",
    "capitals": "NASA and the WHO met in New York.",
    "empty": "",
    "blank": " \t\n ",
    "surrounding space": "  \n leading and trailing \n ",
    "newlines": "\na line\r\n\n\nanother\n",
    "nul": "a\x00b \x00",
    "control characters": "a\x07c\x1b[31m\u200b\ufeff\ufffd\u0085",
    "astral": "👩‍👩‍👧 😀🏳️‍🌈 𝔘𝔫𝔦𝔠𝔬𝔡𝔢 𐍈",
    "accents": "Crème brûlée, Ångström, e\u0301\u0323",
    "not Latin": "自然言語処理は楽しい。 مرحبا بالعالم שלום Привет ไทย",
    "numbers": "1234567890 3.14 1,000 ½ Ⅷ",
    "markup": "<b>bold</b> <tool_response>x</tool_response> <think></think> {{ x }} {% if y %}",
    "an address": "https://example.org/a/picture.png",
    "a repeated word": "no no no no",
}


def probe_texts(tokenizer: Any, max_length: int) -> dict[str, str]:
    """Return texts of every sort by name, those of the model's own added tokens among them."""
    added = [str(token) for token in tokenizer.get_added_vocab()]
    named = dict.fromkeys([*map(str, tokenizer.all_special_tokens), *added, "[SEP]", "</s>"])
    beyond = max(4096, FIRST_LOOK * max_length)
    words = "Text beyond the limit of the model, word by word. "
    spelled = {f"the token {token}": f"a {token} b{token}c" for token in [*named][:32]}
    return {
        **SHORT,
        **spelled,
        "longer than the limit": words * (max_length // 4 + 2),
        "a long run of dashes": "-" * (beyond + 1),
        "a long run of equals signs": "=" * (beyond + 1002),
        "a long run of haha": "haha" * (beyond // 4 + 751),
        "long, no spaces": "自然言語処理は楽しい。" * (beyond // 11 + 9),
        "long prose": words * (beyond // len(words) + 9),
    }


def check_probes(
    model: Any, tokenizer: Tokenizer, prompts: Mapping[str, str], default: str | None, location: str
) -> None:
    """Hold ids and vectors against the model's own; it has the bundle's limit and prompts.

    Raises:
        ResolveError: other ids or vectors, or Sentence Transformers itself fails.
    """
    texts = probe_texts(model.tokenizer, tokenizer.max_length)
    for name, prompt in prompts.items():
        refusal = tokenizer.refusal(tokenizer.rows([SHORT["plain"]], prompt)[0].ids)
        if refusal is not None:
            raise ResolveError(f"{location}: its prompt {name} ({prompt[:60]!r}) {refusal}")
    few = {name: texts[name] for name in ("plain", "empty", "longer than the limit")}
    _check_ids(model, tokenizer, texts, "", location)
    for prompt in dict.fromkeys([*prompts.values(), UNKNOWN_PROMPT]):
        of_default = default is not None and prompt == prompts[default]
        _check_ids(model, tokenizer, SHORT if of_default else few, prompt, location)
    for task in ("query", "document"):
        _check_ids(model, tokenizer, few, prompts.get(task, ""), location, task=task)
    _check_vectors(model, tokenizer, prompts.get(default or "", ""), location)


def check_rows(
    model: Any, tokenizer: Tokenizer, texts: Sequence[str], prompt: str, location: str
) -> None:
    """Hold the ids of any texts against the model's own.

    Raises:
        ResolveError: they are others.
    """
    _check_ids(model, tokenizer, {repr(text[:60]): text for text in texts}, prompt, location)


def _check_ids(
    model: Any,
    tokenizer: Tokenizer,
    texts: Mapping[str, str],
    prompt: str,
    location: str,
    **task: str,
) -> None:
    rows = tokenizer.rows(list(texts.values()), prompt)
    for (name, text), row in zip(texts.items(), rows, strict=True):
        expected = own_row(model, text, prompt, location, **task)
        if expected.ids == row.ids and expected.type_ids in ((), row.type_ids):
            continue
        pairs = zip(expected.ids, row.ids, strict=False)
        at = next((i for i, (a, b) in enumerate(pairs) if a != b), -1)
        at = min(len(expected.ids), len(row.ids)) if at < 0 else at
        theirs, ours = (_words(model, ids[at:]) for ids in (expected.ids, row.ids))
        raise ResolveError(
            f"{location}: Sentence Transformers makes other tokens of a text ({name}) than a "
            f"bundle could: from token {at} on {theirs} where tokenizer.json gives {ours}. "
            f"What the model sets: {unusual(model)}. Save it without, or serve it with Sentence "
            "Transformers"
        )


def own_row(model: Any, text: str, prompt: str, location: str, **task: str) -> TokenRow:
    """Return the ids, and type ids if it makes any, of the path that ``encode`` takes.

    Raises:
        ResolveError: it fails.
    """
    try:
        features = model.preprocess([text], prompt=prompt or None, **task)
        mask = features["attention_mask"][0].bool()
        ids = features["input_ids"][0][mask].tolist()
        types = features["token_type_ids"][0][mask].tolist() if "token_type_ids" in features else ()
    except Exception as error:  # whatever a tokenizer, a template or the model's own code raises
        raise ResolveError(
            f"{location}: Sentence Transformers itself cannot tokenize a text: "
            f"{type(error).__name__}: {' '.join(str(error).split())[:200]}; the model sets "
            f"{unusual(model)}"
        ) from error
    return TokenRow(ids=tuple(ids), type_ids=tuple(types))


def _words(model: Any, ids: Sequence[int]) -> str:
    return repr(model.tokenizer.convert_ids_to_tokens(list(ids[:4]))) if ids else "none"


def _check_vectors(model: Any, tokenizer: Tokenizer, prompt: str, location: str) -> None:
    """Compare ``encode`` with the modules fed as a graph is, for texts that fit."""
    texts = [SHORT[name] for name in ("plain", "newlines", "astral", "not Latin", "numbers")]
    rows = tokenizer.rows(texts, prompt)
    kept = [i for i, row in enumerate(rows) if tokenizer.refusal(row.ids) is None]
    for i in kept:
        expected = _encode(model, texts[i], prompt, location)
        observed = run_modules(model, tokenizer.pad([rows[i]]), "cpu")[0, : len(expected)]
        cosine = float(row_cosines(expected[None], observed[None])[0])
        if not cosine >= MIN_COSINE and np.isfinite(expected).all():
            raise ResolveError(
                f"{location}: SentenceTransformer.encode returns another vector of "
                f"{texts[i]!r} than its modules do of the same tokens (cosine {cosine:.6f}, "
                f"expected at least {MIN_COSINE}). What the model sets: {unusual(model)}"
            )


def _encode(model: Any, text: str, prompt: str, location: str) -> Any:
    try:
        return model.encode([text], batch_size=1, prompt=prompt, show_progress_bar=False)[0]
    except Exception as error:  # whatever the model's own code raises
        raise ResolveError(
            f"{location}: Sentence Transformers itself cannot encode {text!r}: "
            f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        ) from error


def check_limit(model: Any, limit: int, location: str) -> None:
    """Hold the limit that was read of a model's files against where its own path ends a text.

    Raises:
        ResolveError: it ends elsewhere, or nowhere.
    """
    seen = len(own_row(model, "a b c " * (limit // 2 + 2), "", location).ids)
    if seen != limit:
        raise ResolveError(
            f"{location}: Sentence Transformers ends a long text at {seen} tokens, its limit is "
            f"{limit}. What the model sets: {unusual(model)}"
        )


def usable_length(model: Any, length: int, location: str) -> int:
    """Return the most tokens, at most ``length``, that the model has positions for.

    Raises:
        ResolveError: it does not even take a short text.
    """
    known = own_row(model, SHORT["plain"], "", location).ids or (0,)

    def run(count: int) -> None:
        ids = np.resize(np.array(known, np.int64), (1, count))
        whole, none = np.ones_like(ids), np.zeros_like(ids)
        run_modules(
            model, TokenBatch(input_ids=ids, attention_mask=whole, token_type_ids=none), "cpu"
        )

    usable, error = longest_that_runs(run, length)
    if usable < min(3, length):
        raise ResolveError(
            f"{location}: the model fails on {length} tokens and on any fewer: "
            f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        ) from error
    return usable


def longest_that_runs(run: Callable[[int], object], length: int) -> tuple[int, Exception | None]:
    """Return the largest of 1 to ``length`` that ``run`` takes (0: none), and the last error."""
    low, high, middle = 0, length + 1, length
    failure: Exception | None = None
    while high - low > 1:
        try:
            run(middle)
        except (IndexError, RuntimeError, ValueError) as error:
            if "allocate" in str(error):
                raise
            high, failure = middle, error
        else:
            low = middle
        middle = (low + high) // 2
    return low, failure
