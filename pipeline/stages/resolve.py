"""Find the Sentence Transformer, check its weights, and read what it says of itself."""

import logging
from pathlib import Path
from typing import Any

from pipeline.config import ModelConfig
from pipeline.contracts import SourceModel, combined_sha256, sha256_file
from pipeline.errors import ResolveError
from pipeline.printable import is_unicode
from pipeline.source.assets import write_assets
from pipeline.source.chain import refuse_chain, refuse_module_files, weighted_modules
from pipeline.source.locate import UNSAFE, Located, locate
from pipeline.source.references import refuse_references
from pipeline.source.tokenization import read_tokenization
from pipeline.text.tokens import Tokenizer

log = logging.getLogger(__name__)


def resolve(config: ModelConfig, out_dir: Path, located: Located | None = None) -> SourceModel:
    """Return the model that the config names, its weights checked and its assets written.

    Tried in order: ``directory``, installed ``package``, ``hub_id`` at ``revision`` (not set: the
    newest commit, which is logged and goes into the manifest). ``located`` is what ``locate``
    returned, where it was asked already.

    Raises:
        ResolveError: not found, weights with another sha256, no safetensors, not a Sentence
            Transformer, or a setting that does not fit the model.
        ExportError: a module that no graph can express.
    """
    located = locate(config) if located is None else located
    path = located.path
    refuse_references(path, located.location)
    refuse_module_files(path, located.location, trust_remote_code=config.trust_remote_code)
    weights = _hash_weights(path)
    sha256 = combined_sha256(weights)
    if config.weights_sha256 is not None and sha256 != config.weights_sha256:
        raise ResolveError(
            f"{path}: weights have sha256 {sha256}, expected {config.weights_sha256}: the files "
            "are damaged or of another model; reinstall them, or set model.weights_sha256 if they "
            "are meant to differ"
        )
    return _describe(config, located, weights, sha256, out_dir)


def _hash_weights(path: Path) -> dict[str, str]:
    """Return the sha256 of every safetensors file, by path relative to the model."""
    files = sorted(path.rglob("*.safetensors"))
    for unsafe in sorted(path.glob("*/pytorch_model.bin")):  # a Dense module's, say
        if files and not unsafe.with_name("model.safetensors").is_file():
            raise ResolveError(
                f"{unsafe}: weights in a format that can run code when loaded; expected "
                "model.safetensors beside it: save the model again with SentenceTransformer.save()"
            )
    for module in weighted_modules(path) if files else ():
        if not any((path / module).glob("*.safetensors")):
            raise ResolveError(
                f"{path / module}: no model.safetensors there, and its module has weights; if all "
                "there is of them is pytorch_model.bin, a format that can run code when loaded: "
                "load the model with Sentence Transformers where you trust it, save it again with "
                "SentenceTransformer.save(), and point model.directory there"
            )
    if not files:
        other = next((f.name for f in sorted(path.rglob("*")) if f.suffix in UNSAFE), None)
        seen = f"only {other}, a format that can run code when loaded" if other else "no weights"
        raise ResolveError(
            f"{path}: found {seen}; expected *.safetensors: save the model again with "
            "SentenceTransformer.save(..., safe_serialization=True)"
        )
    return {file.relative_to(path).as_posix(): sha256_file(file) for file in files}


def _describe(
    config: ModelConfig, located: Located, weights: dict[str, str], sha256: str, out_dir: Path
) -> SourceModel:
    """Load the model once to read its max length, pooling and prompts as it applies them."""
    from pipeline.engines.torch import limit_length, load_sentence_transformer
    from pipeline.source.probes import check_limit, check_probes
    from pipeline.source.whole import load_watched, refuse_drawn

    def load() -> Any:
        return load_sentence_transformer(
            located.path, device="cpu", trust_remote_code=config.trust_remote_code
        )

    model, drew = load_watched(load)
    refuse_chain(model, located.location)
    tokenization = read_tokenization(model, located.location)
    if drew:
        refuse_drawn(model, load(), located.location)
    if tokenization.limit is not None:
        check_limit(model, tokenization.limit, located.location)
    max_length = _max_length(config, model, tokenization.limit, located.location)
    limit_length(model, max_length)
    prompts, default_prompt = _prompts(config, model)
    dimension = _dimension(config, model)
    changed = {
        "prompts": prompts if config.prompts else None,
        "default_prompt_name": default_prompt if config.default_prompt is not None else None,
        "truncate_dim": config.truncate_dim,
    }
    assets = out_dir / "assets"
    write_assets(
        model,
        located.path,
        assets,
        tokenization,
        max_length=max_length,
        changed={key: value for key, value in changed.items() if value is not None},
    )
    tokenizer = Tokenizer(assets, max_length=max_length)
    check_probes(model, tokenizer, prompts, default_prompt, located.location)
    return SourceModel(
        name=config.name,
        path=located.path,
        assets=assets,
        origin=located.origin,
        location=located.location,
        revision=located.revision,
        candidates=located.candidates,
        weights=weights,
        sha256=sha256,
        max_length=max_length,
        dimension=dimension,
        modules=tuple(type(module).__name__ for module in model),
        pooling=_pooling_name(model),
        prompts=prompts,
        default_prompt=default_prompt,
        trust_remote_code=config.trust_remote_code,
    )


def _max_length(config: ModelConfig, model: Any, own: int | None, location: str) -> int:
    """Return how many tokens a text has at most: as configured, or as the model states and takes.

    Raises:
        ResolveError: none stated, or more than the model has positions for.
    """
    length = own if config.max_length is None else config.max_length
    if length is None:
        raise ResolveError(
            f"{location}: states no max length, and Sentence Transformers truncates nothing; set "
            "model.max_length (512, say)"
        )
    if length < 3 or (own is not None and length > own):
        most = "any" if own is None else f"{own}, the model's own max length"
        raise ResolveError(f"model.max_length={length}: expected 3 to {most}")
    from pipeline.source.probes import usable_length

    usable = usable_length(model, length, location)
    if usable < length and config.max_length is not None:
        raise ResolveError(
            f"model.max_length={length}: the model has positions for {usable} tokens; expected 3 "
            f"to {usable}"
        )
    if usable < length:
        log.warning(
            "model %s: states a max length of %d and has positions for %d tokens: texts end there, "
            "where Sentence Transformers fails",
            config.name,
            length,
            usable,
        )
    elif own is not None and length < own:
        log.info("model %s: texts end at %d tokens, its own limit is %d", config.name, length, own)
    return usable


def _prompts(config: ModelConfig, model: Any) -> tuple[dict[str, str], str | None]:
    """Return the prompts by name, and the name of the one that goes before every text."""
    own = dict(model.prompts or {})
    for name, text in config.prompts.items():
        if own.get(name, text) != text:
            log.warning(
                "model %s: model.prompts.%s=%r takes the place of the checkpoint's %r",
                config.name,
                name,
                text,
                own[name],
            )
    default = config.default_prompt or model.default_prompt_name
    prompts = {
        name: text
        for name, text in (own | config.prompts).items()
        # Sentence Transformers has an empty query and document where a model states neither.
        if text or name not in ("query", "document") or name == default
    }
    for name, text in prompts.items():
        if not is_unicode(f"{name}{text}"):
            raise ResolveError(
                f"model {config.name}: its prompt {name!a} is not Unicode: {text!a}; correct it in "
                "config_sentence_transformers.json, or set model.prompts"
            )
    if config.default_prompt is not None and config.default_prompt not in prompts:
        known = ", ".join(sorted(prompts)) or "none"
        raise ResolveError(f"model.default_prompt={config.default_prompt}: the model has {known}")
    return prompts, default


def _dimension(config: ModelConfig, model: Any) -> int:
    """Return the embedding's dimension, truncated as the checkpoint or the config says."""
    own = int(model.get_embedding_dimension())
    if own < 1:
        raise ResolveError(
            f"config_sentence_transformers.json truncates vectors to {own} dimensions; set "
            "model.truncate_dim"
        )
    if config.truncate_dim is None:
        return own
    model.truncate_dim = None
    full = int(model.get_embedding_dimension())
    if not 1 <= config.truncate_dim <= full:
        raise ResolveError(
            f"model.truncate_dim={config.truncate_dim}: expected 1 to {full}, its dimension"
        )
    return config.truncate_dim


def _pooling_name(model: Any) -> str:
    """Return ``mean``, ``cls``, …, several joined by ``+``."""
    mode = next(module.pooling_mode for module in model if hasattr(module, "pooling_mode"))
    return mode if isinstance(mode, str) else "+".join(mode)
