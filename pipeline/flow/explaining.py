"""Turn what Hydra and OmegaConf say into one line that names the key and the choices."""

import difflib
import re
import shlex
from collections.abc import Sequence
from typing import Any

from hydra.errors import OverrideParseException
from omegaconf import DictConfig, OmegaConf


def explain(error: Exception, arguments: Sequence[str], schema: type[Any]) -> str:
    """Turn Hydra's and OmegaConf's messages into one line that names the key and the choices."""
    text = str(error)
    causes = f"{text} {error.__cause__ or ''}"
    if match := re.search(r"Could not find '([^']+)'", text):
        group, _, choice = match[1].rpartition("/")
        options = re.findall(r"^\t([\w.-]+)$", text, re.MULTILINE)
        return f"{group}={choice}: no such choice; {_suggest(choice, options)}"
    refused = re.search(r"Could not override '([^']+)'", text)
    if refused is not None and _is_mapping(refused[1], schema):
        return f"{refused[1]}: new keys are added with a plus: +{refused[1]}={{KEY: VALUE}}"
    if match := re.search(r"Key '([^']+)' (?:is )?not in", causes):
        return _unknown_key(match[1], arguments, schema)
    if match := re.search(r"Could not override '([^']+)'", text):
        return _unknown_key(match[1].rpartition(".")[2], arguments, schema)
    key = re.search(r"full_key: (\S+)", causes)
    if key is not None and "missing mandatory value" in causes.lower():
        return f"{key[1]} is not set; add {key[1]}=…"
    if isinstance(error, OverrideParseException) and "=" in error.override:
        name, _, value = error.override.partition("=")
        escaped = value.replace("\\", "\\\\").replace('"', '\\"')
        quoted = f'{name}="{escaped}"'
        return (
            f"cannot read {error.override!r}: quote what is not letters, digits and ._-/:, for "
            f"Hydra and for the shell: {shlex.quote(quoted)}"
        )
    if isinstance(error, OverrideParseException):
        return f"cannot read {error.override!r}: expected KEY=VALUE; see python -m pipeline --help"
    first = " ".join(causes.split("full_key", maxsplit=1)[0].split())
    first = re.sub(r"^Error merging override (\S+) ", r"\1: ", first)
    prefix = f"{key[1]}: " if key and not first.startswith(key[1]) else ""
    return f"{prefix}{first}; see python -m pipeline --help"


def _is_mapping(key: str, schema: type[Any]) -> bool:
    node = OmegaConf.select(OmegaConf.structured(schema), key)
    return isinstance(node, DictConfig) and OmegaConf.get_type(node) is dict


def _unknown_key(key: str, arguments: Sequence[str], schema: type[Any]) -> str:
    """Name the override with the unknown key, and the keys that exist where it goes astray."""
    given = next(
        (a.partition("=")[0].lstrip("+~") for a in arguments if key in a.partition("=")[0]), key
    )
    node = OmegaConf.structured(schema)
    for part in given.split("."):
        names = sorted(map(str, node))
        child = node.get(part) if part in names else None
        if not isinstance(child, DictConfig):
            return f"{given}: no such key; {_suggest(part, names)}"
        node = child
    return f"{given}: no such key; see python -m pipeline --help"


def _suggest(word: str, options: Sequence[str]) -> str:
    close = difflib.get_close_matches(word, options, n=1)
    meant = f"did you mean {close[0]}? " if close else ""
    return f"{meant}choose one of {', '.join(options)}"
