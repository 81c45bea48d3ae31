"""Hold what a manifest says of a model against its graph and its own configuration, at load."""

from collections.abc import Mapping
from typing import Any, TypeGuard

from pipeline.bundle.engines import Parent
from pipeline.engines import Encoder
from pipeline.errors import BundleError
from pipeline.files import parse_json
from pipeline.text.tokens import Tokenizer

_POSITIONED = (
    "albert",
    "bert",
    "camembert",
    "distilbert",
    "electra",
    "ernie",
    "mpnet",
    "roberta",
    "xlm-roberta",
)
"""Architectures with a table of positions; in others a limit may be longer than what is stated."""


def require_dimension(parent: Parent, engine: Encoder) -> None:
    """Refuse an engine whose vectors are of another length than the manifest states.

    Raises:
        BundleError: both lengths, and what to make anew.
    """
    stated, own = int(parent.manifest["model"]["dimension"]), getattr(engine, "dimension", None)
    if own is None or own == stated:
        return
    if engine.name.startswith("tensorrt"):  # a plan, of which the bundle may have others
        raise BundleError(
            f"{parent.root}: model.dimension is {stated}, the {engine.name} plan gives {own}; "
            f"build the engine again with python -m pipeline.build {parent.root}, or publish the "
            "bundle again"
        )
    raise _contradiction(parent, f"model.dimension is {stated}, the graph gives {own}")


def check_consistency(parent: Parent, tokenizer: Tokenizer) -> None:
    """Refuse a bundle whose texts would fail at their first encode, or be cut wrongly.

    Raises:
        BundleError: the model takes fewer tokens or token types than the tokenizer makes.
    """
    model = parent.manifest["model"]
    config = _config(parent)
    positions = config.get("max_position_embeddings")
    limit = int(model["max_length"])
    if config.get("model_type") in _POSITIONED and _is_count(positions) and limit > positions:
        raise _contradiction(
            parent, f"model.max_length is {limit}, the model has {positions} positions"
        )
    types = config.get("type_vocab_size")
    typed = "token_type_ids" in {spec["name"] for spec in parent.manifest["graph"]["inputs"]}
    if typed and _is_count(types) and tokenizer.pad_type_id >= types:
        raise _contradiction(
            parent,
            f"pad_token_type_id is {tokenizer.pad_type_id} in tokenizer_config.json, the model "
            f"has {types} token types",
        )


def _config(parent: Parent) -> Mapping[str, Any]:
    """Return ``config.json``, or nothing where the bundle has none that is an object."""
    if not parent.checker.has("config.json"):
        return {}
    try:
        config = parse_json(parent.checker.path("config.json").read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return config if isinstance(config, dict) else {}


def _is_count(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _contradiction(parent: Parent, words: str) -> BundleError:
    return BundleError(f"{parent.root}: {words}; publish the bundle again")
