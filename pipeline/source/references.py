"""Refuse models whose files name files elsewhere: what is hashed has to be all that is loaded."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pipeline.errors import ResolveError
from pipeline.files import parse_json

_WITH_CODE = (
    "config.json",
    "tokenizer_config.json",
    "processor_config.json",
    "preprocessor_config.json",
)
"""Files whose ``auto_map`` names classes: ``module.Class``, or ``repository--module.Class``."""

_ARGUMENTS = ("model_args", "config_args", "tokenizer_args", "processor_args", "model_kwargs")


def refuse_references(path: Path, location: str) -> None:
    """Check that the directory's own files are all that loading it reads.

    Weights elsewhere could change, and the store would give the graph of before; a manifest would
    name half of what was loaded.

    Raises:
        ResolveError: an adapter over other weights, or a module, shard, tokenizer or code outside.
    """
    for adapter in sorted(path.rglob("adapter_config.json")):
        base = _read(adapter).get("base_model_name_or_path")
        raise ResolveError(
            f"{location}: {adapter.relative_to(path)} makes it an adapter over the weights of "
            f"{base!r}, which are not in its directory: merge first: load it with Sentence "
            "Transformers and peft, model[0].model = model[0].model.merge_and_unload(), save it, "
            "and point model.directory there"
        )
    for file, name in _code(path):
        raise ResolveError(
            f"{location}: {file} names {name!r}, code that is not in the model's directory: copy "
            "the file that it is in there, name it there without a repository (module.Class), and "
            "point model.directory there"
        )
    for file, name in _named(path):
        if _is_left_out(name):
            raise ResolveError(
                f"{location}: {file} names {name!r}: what begins with a dot is taken for a "
                "cache's, and its change would go unseen: rename it"
            )
        if not _is_inside(path, name) and not _in_cache(path, name):
            raise ResolveError(
                f"{location}: {file} names {name!r}, which leads out of the model's directory: "
                "copy what it names into it, or save the model anew with SentenceTransformer.save()"
            )


def _named(path: Path) -> Iterator[tuple[str, str]]:
    """Yield each name of a file or directory that loading follows, and who names it."""
    for module in _modules(path):
        if isinstance(module, dict) and isinstance(module.get("path"), str):
            yield "modules.json", module["path"]
    for index in path.rglob("*.safetensors.index.json"):
        shards = _read(index).get("weight_map", {})
        below = index.parent.relative_to(path)
        for shard in sorted(set(map(str, shards.values()))) if isinstance(shards, dict) else ():
            yield index.name, str(below / shard)
    for config in path.rglob("sentence_*_config.json"):
        settings = _read(config)
        elsewhere = settings.get("tokenizer_name_or_path")
        if isinstance(elsewhere, str) and elsewhere:
            yield config.name, str(Path("..") / elsewhere)
        for value in _texts([settings.get(key) for key in _ARGUMENTS]):
            if value.startswith("/") or ".." in Path(value).parts:
                yield config.name, value
    for file, key, value in _files(path):
        outside = Path(value).is_absolute() or ".." in Path(value).parts
        if outside and "\0" not in value and (path / value).exists():
            yield f"{file} ({key})", value


def _files(path: Path) -> Iterator[tuple[str, str, str]]:
    """Yield each setting that some version of transformers opens as a file, where one is stated.

    ``special_tokens_map_file`` is a leftover of whoever trained: nobody opens it.
    """
    for name in ("tokenizer_config.json", "config.json"):
        for config in path.rglob(name):
            for key, value in _read(config).items():
                opened = key.endswith("_file") and key != "special_tokens_map_file"
                if isinstance(value, str) and (opened or key == "transformers_weights"):
                    yield name, key, value


def _code(path: Path) -> Iterator[tuple[str, str]]:
    """Yield each class of another repository that loading takes; ``chain`` refuses modules."""
    for config in (file for name in _WITH_CODE for file in path.rglob(name)):
        for name in _class_names(_read(config)):
            if "--" in name:
                yield config.relative_to(path).as_posix(), name


def _class_names(settings: Any) -> Iterator[str]:
    """Yield what stands below a key ``auto_map``, at any depth."""
    if isinstance(settings, dict):
        for key, value in settings.items():
            yield from _texts(value) if key == "auto_map" else _class_names(value)
    elif isinstance(settings, list):
        for value in settings:
            yield from _class_names(value)


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for each in value.values() if isinstance(value, dict) else value:
            yield from _texts(each)


def _is_left_out(name: str) -> bool:
    """Whether the key of what is loaded leaves the file out, as ``keys.tree_sha256`` does."""
    parts = (part for part in Path(name).parts if part not in (".", ".."))
    return any(part.startswith((".", "__pycache__")) for part in parts)


def _is_inside(path: Path, name: str) -> bool:
    try:
        return (path / name).resolve().is_relative_to(path.resolve())
    except (OSError, RuntimeError, ValueError):  # a link to itself, a name that no file can have
        return False


def _in_cache(path: Path, name: str) -> bool:
    """Whether it is a link of the hub's cache: a snapshot's files are links to blobs beside it."""
    if ".." in Path(name).parts or Path(name).is_absolute() or "\0" in name:
        return False
    return (path / name).is_file()


def _modules(path: Path) -> list[Any]:
    try:
        modules = parse_json((path / "modules.json").read_text("utf-8"))
    except (OSError, ValueError):
        return []
    return modules if isinstance(modules, list) else []


def _read(path: Path) -> dict[str, Any]:
    try:
        settings = parse_json(path.read_text("utf-8"))
    except (OSError, ValueError):
        return {}  # loading says what is wrong with it
    return settings if isinstance(settings, dict) else {}
