"""Tell which module chains of Sentence Transformers become one graph, and why others do not.

A graph takes padded token ids and gives one vector a row. What needs anything else is refused by
its name before it is traced: a trace could succeed and compute something else.
"""

import json
from pathlib import Path
from typing import Any

from pipeline.errors import ExportError
from pipeline.files import parse_json

_TEXT = {"text", "message"}
_EXPORTED = {"Transformer", "Pooling", "Dense", "LayerNorm", "Normalize", "Dropout"}
REASONS = {
    "BoW": "it takes counts of words, not token ids",
    "StaticEmbedding": "it takes texts joined to one row with offsets, not a padded batch",
    "WordEmbeddings": "it splits text with a tokenizer that has no tokenizer.json",
    "WordWeights": "it weighs words by a table that the tokenizer of a bundle does not know",
    "CNN": "it also reads padding: a vector would depend on what a text is batched with",
    "LSTM": "it reads each row to a length of its own, which neither exporter traces",
    "Router": "it takes one of several paths by the task, and a graph has one",
    "Asym": "it takes one of several paths by the key of its input, and a graph has one",
    "CLIPModel": "it takes images as well as text",
    "WeightedLayerPooling": "it takes the output of every layer, which export does not ask for",
}
"""Why a module of Sentence Transformers stops a run, by its class."""


def refuse_module_files(path: Path, location: str, *, trust_remote_code: bool) -> None:
    """Check the classes that ``modules.json`` names, before any of them is loaded.

    Raises:
        ExportError: a module that a graph cannot express, or that would load as something else, by
            its name, with the reason.
    """
    try:
        modules = parse_json((path / "modules.json").read_text("utf-8"))
    except ValueError:
        return  # loading says what is wrong with it
    if not isinstance(modules, list):
        raise ExportError(f"{location}: modules.json is no list of modules")
    for index, module in enumerate(modules):
        if not isinstance(module, dict) or not {"type", "path"} <= module.keys():
            raise ExportError(
                f"{location}: modules.json: entry {index} is {json.dumps(module)[:80]}, expected "
                "an object with type and path; save the model again with SentenceTransformer.save()"
            )
        kind = str(module["type"])
        name = kind.rpartition(".")[2]
        ours = kind.startswith("sentence_transformers.")
        if ours and name in _EXPORTED:
            activation = _activation(path / str(module["path"])) if name == "Dense" else "torch."
            if trust_remote_code or activation.startswith("torch."):
                continue
            raise ExportError(
                f"{location}: module {index}, Dense, has the activation {activation}: Sentence "
                "Transformers takes Tanh in its place unless model.trust_remote_code=true"
            )
        reason = REASONS.get(name) if ours else None
        reason = reason or "export knows no such module, and would not know what it leaves out"
        raise ExportError(
            f"{location}: module {index} is {name} ({kind}): {reason}; "
            f"a graph is made of {', '.join(sorted(_EXPORTED))}"
        )


def weighted_modules(path: Path) -> list[str]:
    """Return the directories of the modules that have weights of their own behind the encoder."""
    try:
        modules = parse_json((path / "modules.json").read_text("utf-8"))
    except ValueError:
        return []  # loading says what is wrong with it
    return [
        str(module["path"])
        for module in modules
        if str(module["type"]).rpartition(".")[2] in ("Dense", "LayerNorm")
    ]


def _activation(dense: Path) -> str:
    try:
        config = parse_json((dense / "config.json").read_text("utf-8"))
    except (OSError, ValueError):
        return "torch."  # loading says what is wrong with it
    return str(config.get("activation_function", "torch."))


def refuse_chain(model: Any, location: str) -> None:
    """Check the loaded modules for what a graph cannot express.

    Raises:
        ExportError: no Pooling, a Pooling whose result depends on the batch or leaves the prompt
            out, or a Transformer of more than text.
    """
    kinds = [type(module).__name__ for module in model]
    if "Pooling" not in kinds:
        raise ExportError(
            f"{location}: no Pooling among its modules ({' → '.join(kinds)}), so nothing makes one "
            "vector of a text's tokens; save it as a Sentence Transformer with a Pooling module"
        )
    for index, module in enumerate(model):
        reason = _obstacle(module, model.tokenizer.padding_side)
        if reason is not None:
            raise ExportError(f"{location}: module {index}, {kinds[index]}, {reason}")


def _obstacle(module: Any, padding_side: str) -> str | None:
    kind = type(module).__name__
    if kind == "Transformer":
        known = {kind for kind in module.modalities if isinstance(kind, str)} <= _TEXT
        return None if known else f"takes {module.modalities}: only text is exported"
    if kind == "Pooling":
        return _pooling_obstacle(module, padding_side)
    return None


def _pooling_obstacle(pooling: Any, padding_side: str) -> str | None:
    if not getattr(pooling, "include_prompt", True):
        return (
            "leaves the prompt's tokens out (include_prompt=false): a graph cannot tell which "
            "tokens are the prompt's"
        )
    modes = pooling.pooling_mode
    modes = (modes,) if isinstance(modes, str) else modes
    if "weightedmean" in modes and padding_side == "left":
        return (
            "is weightedmean over rows padded on the left: its weights count the padding, so a "
            "vector depends on what a text is batched with"
        )
    return None
