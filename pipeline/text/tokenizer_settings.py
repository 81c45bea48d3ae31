"""Read ``tokenizer_config.json``, whoever wrote it: what is not as expected is refused by name."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pipeline.text.wrapping import Wrapping, read_wrapping

WRAPPING, ROWS = "sentence_transformers_wrapping", "embedding_rows"
"""Keys of ours: a chat template, and a table that ids lead out of."""

_SIDES = ("left", "right")
_WRAPPED = {"bare": str, "before": str, "between": str, "after": str, "trims": bool}


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenizerSettings:
    """What of a tokenizer stands beside ``tokenizer.json``."""

    padding_side: str
    truncation_side: str
    split_special_tokens: bool
    pad_token: str | None
    pad_type_id: int
    wrapping: Wrapping | None
    embedding_rows: int | None


def read_settings(text: str) -> TokenizerSettings:
    """Return the settings; a key that is left out, or null, has the library's default.

    Raises:
        ValueError: not JSON, or a value that no tokenizer has; names the key.
    """
    try:
        config = json.loads(text)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    if not isinstance(config, dict):
        raise ValueError(f"expected an object, saw {_shown(config)}")
    return TokenizerSettings(
        padding_side=_side(config, "padding_side"),
        truncation_side=_side(config, "truncation_side"),
        split_special_tokens=_take(config, "split_special_tokens", bool, "true or false") or False,
        pad_token=_pad_token(config),
        pad_type_id=_count(config, "pad_token_type_id") or 0,
        wrapping=_wrapping(config),
        embedding_rows=_count(config, ROWS),
    )


def _take(config: Mapping[str, Any], key: str, kind: type, expected: str) -> Any:
    value = config.get(key)
    if value is not None and (
        not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool)
    ):
        raise ValueError(f"{key} is {_shown(value)}, expected {expected}")
    return value


def _side(config: Mapping[str, Any], key: str) -> str:
    side = _take(config, key, str, "left or right")
    if side is not None and side not in _SIDES:
        raise ValueError(f"{key} is {_shown(side)}, expected left or right")
    return side or "right"


def _count(config: Mapping[str, Any], key: str) -> int | None:
    count: int | None = _take(config, key, int, "a whole number from 0")
    if count is not None and count < 0:
        raise ValueError(f"{key} is {count}, expected a whole number from 0")
    return count


def _pad_token(config: Mapping[str, Any]) -> str | None:
    token = config.get("pad_token")
    content = token.get("content") if isinstance(token, dict) else token
    if token is not None and not isinstance(content, str):
        raise ValueError(
            f"pad_token is {_shown(token)}, expected a string or an object with its content"
        )
    return content


def _wrapping(config: Mapping[str, Any]) -> Wrapping | None:
    stated = _take(config, WRAPPING, dict, "an object")
    if stated is None:
        return None
    for key, kind in _WRAPPED.items():
        if not isinstance(stated.get(key), kind):
            raise ValueError(f"{WRAPPING}.{key} is {_shown(stated.get(key))}")
    ids = stated.get("last_ids")
    if not isinstance(ids, list) or not all(type(i) is int and i >= 0 for i in ids):
        raise ValueError(f"{WRAPPING}.last_ids is {_shown(ids)}, expected a list of token ids")
    return read_wrapping(stated)


def _shown(value: object) -> str:
    return json.dumps(value)[:40]
