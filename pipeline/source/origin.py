"""State what is known of a bundle's weights: licence and base model, never guessed."""

import re
from collections.abc import Mapping
from typing import Any

from pipeline.contracts import SourceModel


def stated_license(source: SourceModel) -> dict[str, str] | None:
    """Return the licence that the source's own card states in its front matter, or None.

    ``id`` is the hub's name for it; ``other`` comes with a ``name`` and a ``link``.
    """
    from huggingface_hub.repocard import metadata_load

    card = source.assets / "README.md"
    if not card.is_file():
        return None
    try:
        matter: Any = metadata_load(card)
    except Exception:  # whatever the YAML in a stranger's card makes the parser raise
        return None
    if not isinstance(matter, Mapping) or not isinstance(matter.get("license"), str):
        return None
    keys = {"license": "id", "license_name": "name", "license_link": "link"}
    return {ours: str(matter[theirs]) for theirs, ours in keys.items() if theirs in matter}


def base_model(source: SourceModel, config: Mapping[str, Any]) -> str | None:
    """Return the hub id of the weights, or None.

    Known where they came from the hub, or where they are those of the hub's id by their sha256.
    """
    if source.origin == "hub":
        return source.location.partition("@")[0]
    model = config.get("model", {})
    hub_id, sha256 = model.get("hub_id"), model.get("weights_sha256")
    known = isinstance(hub_id, str) and re.fullmatch(r"[\w.-]+/[\w.-]+", hub_id) is not None
    return hub_id if known and sha256 == source.sha256 else None


def source_name(model: Mapping[str, Any]) -> str:
    """Return what the weights are called, by a manifest's ``model``.

    A directory's path says nothing on another machine, and is not for everybody to read.
    """
    name = model["name"] if model["origin"] == "directory" else model["id"]
    return str(name)
