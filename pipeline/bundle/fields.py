"""Read JSON that may come from anywhere: its shape is checked before anything in it is used.

Whoever holds what these functions let through may rely on it. All raise ValueError.
"""

import json
import re
from collections.abc import Mapping
from typing import Any, NoReturn

_SHA256 = re.compile(r"[0-9a-f]{64}")
_KINDS = {
    str: "text",
    int: "an integer",
    float: "a fraction",
    dict: "an object",
    list: "a list",
    type(None): "null",
}


def parse_object(content: bytes) -> dict[str, Any]:
    """Return the one JSON object in ``content``, no key of it given twice."""
    try:
        value = json.loads(
            content.decode("utf-8"),
            object_pairs_hook=_without_duplicates,
            parse_constant=_refuse_constant,
        )
    except (ValueError, RecursionError) as error:
        raise ValueError(f"not JSON: {error}") from error
    if not isinstance(value, dict):
        raise ValueError(f"{kind(value)}, expected an object")
    return value


def field(node: Mapping[str, Any], where: str, key: str, expected: type | tuple[type, ...]) -> Any:
    """Return a value of the type expected; ``true`` is no integer."""
    name = f"{where}.{key}" if where else key
    if key not in node:
        raise ValueError(f"lacks {name}")
    value = node[key]
    if not isinstance(value, expected) or isinstance(value, bool):
        kinds = expected if isinstance(expected, tuple) else (expected,)
        words = " or ".join(_KINDS[each] for each in kinds)
        raise ValueError(f"{name} is {kind(value)}, expected {words}")
    return value


def require_object(value: Any, where: str) -> None:
    """Refuse what is not an object."""
    if not isinstance(value, dict):
        raise ValueError(f"{where} is {kind(value)}, expected an object")


def sha256_field(node: Mapping[str, Any], where: str, key: str) -> str:
    """Return a sha256 as 64 lower-case hex digits."""
    value: str = field(node, where, key, str)
    if not _SHA256.fullmatch(value):
        raise ValueError(f"{where}.{key} is no sha256 of 64 hex digits")
    return value


def choice(node: Mapping[str, Any], where: str, key: str, choices: tuple[str, ...]) -> None:
    """Refuse what is not among the choices."""
    value = field(node, where, key, str)
    if value not in choices:
        name = f"{where}.{key}" if where else key
        raise ValueError(f"{name} is {value[:40]!r}, expected one of {', '.join(choices)}")


def files_field(node: Mapping[str, Any], *, unlisted: tuple[str, ...]) -> dict[str, Any]:
    """Return ``files``: plain names below the directory, each with its sha256 and size."""
    files: dict[str, Any] = field(node, "", "files", dict)
    for name, entry in files.items():
        parts = name.split("/")
        if "\\" in name or ":" in name or not name.isprintable() or {"", ".", ".."} & set(parts):
            raise ValueError(f"files: {name!r} is not a plain name below the bundle")
        if name in unlisted:
            raise ValueError(f"files: {name} cannot be listed: it is written last")
        where = f"files[{name!r}]"
        require_object(entry, where)
        sha256_field(entry, where, "sha256")
        if field(entry, where, "bytes", int) < 0:
            raise ValueError(f"{where}.bytes is {entry['bytes']}, expected 0 or more")
    return files


def kind(value: Any) -> str:
    """Return the JSON type of a value in words."""
    return "true or false" if isinstance(value, bool) else _KINDS[type(value)]


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Python takes the last of two equal keys, others the first: a file with both is a trick."""
    found = dict(pairs)
    if len(found) < len(pairs):
        seen: set[str] = set()
        for name, _ in pairs:
            if name in seen:
                raise ValueError(f"key {name[:80]!r} is given twice")
            seen.add(name)
    return found


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON")
