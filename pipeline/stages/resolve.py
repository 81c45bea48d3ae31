"""resolve: find the Sentence Transformer, check its weights, read what it says of itself."""

import hashlib
import json
import logging
import re
import shutil
from importlib import metadata
from pathlib import Path
from typing import Any

from pipeline.config import ModelConfig
from pipeline.contracts import SourceModel, sha256_file
from pipeline.errors import ResolveError

log = logging.getLogger(__name__)

_CONFIGS = ("config.json", "modules.json", "config_sentence_transformers.json", "README.md")
_UNSAFE = (".bin", ".pt", ".pth", ".pkl", ".ckpt", ".h5", ".msgpack")
_POOLING_BOOLEANS = {
    "cls": "pooling_mode_cls_token",
    "mean": "pooling_mode_mean_tokens",
    "max": "pooling_mode_max_tokens",
    "mean_sqrt_len_tokens": "pooling_mode_mean_sqrt_len_tokens",
    "weightedmean": "pooling_mode_weightedmean_tokens",
    "lasttoken": "pooling_mode_lasttoken",
}


def resolve(config: ModelConfig, out_dir: Path) -> SourceModel:
    """Return the model that the config names, its weights checked and its assets written.

    Tried in order: ``directory``, installed ``package``, ``hub_id`` at a pinned ``revision``.

    Raises:
        ResolveError: not found, weights with another sha256, no safetensors, not a Sentence
            Transformer, or a max length beyond the model's.
    """
    path, origin, location, candidates = _locate(config)
    for line in candidates:
        log.info("model %s: %s", config.name, line)
    weights = _hash_weights(path)
    sha256 = _combined_sha256(weights)
    if config.weights_sha256 is not None and sha256 != config.weights_sha256:
        raise ResolveError(
            f"{path}: weights have sha256 {sha256}, expected {config.weights_sha256}: the files "
            "are damaged or of another model; reinstall them, or set model.weights_sha256 if they "
            "are meant to differ"
        )
    return _describe(config, path, origin, location, candidates, weights, sha256, out_dir)


def _locate(config: ModelConfig) -> tuple[Path, str, str, tuple[str, ...]]:
    """Return the model's directory, its origin and location, and what was tried."""
    tried: list[str] = []
    if config.directory is not None:
        path = Path(config.directory)
        if not (path / "modules.json").is_file():
            raise ResolveError(
                f"model.directory={config.directory}: no modules.json there, so it is not a "
                "Sentence Transformer; point it at one saved with SentenceTransformer.save()"
            )
        return path, "directory", str(path), ("directory: used",)
    tried.append("directory: not set")
    if config.package is not None:
        found = _in_package(config.package)
        if found is not None:
            path, version = found
            location = f"{config.package}=={version}"
            return path, "package", location, (*tried, f"package {location}: used")
        tried.append(f"package {config.package}: not installed")
    else:
        tried.append("package: not set")
    if config.hub_id is None:
        raise ResolveError(
            f"model {config.name} not found ({'; '.join(tried)}; hub_id: not set); "
            "set model.directory, model.package or model.hub_id"
        )
    path = _from_hub(config, tried)
    location = f"{config.hub_id}@{config.revision}"
    return path, "hub", location, (*tried, f"hub {location}: used")


def _in_package(name: str) -> tuple[Path, str] | None:
    """Find modules.json among an installed package's files, without importing the package."""
    try:
        distribution = metadata.distribution(name)
    except metadata.PackageNotFoundError:
        return None
    for file in distribution.files or ():
        if file.name == "modules.json":
            return Path(str(file.locate())).parent, distribution.version
    raise ResolveError(
        f"model.package={name}: installed, but it carries no modules.json; "
        "set model.directory or model.hub_id instead"
    )


def _from_hub(config: ModelConfig, tried: list[str]) -> Path:
    if config.revision is None or not re.fullmatch(r"[0-9a-f]{40}", config.revision):
        raise ResolveError(
            f"model.hub_id={config.hub_id}: revision is {config.revision!r}, expected a commit of "
            "40 hex digits; set model.revision so that the same weights come every night"
        )
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        return Path(
            snapshot_download(
                str(config.hub_id),
                revision=config.revision,
                ignore_patterns=[*(f"*{s}" for s in _UNSAFE), "*.onnx", "onnx/*", "openvino/*"],
            )
        )
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError, ValueError) as error:
        install = f"pip install {config.package}, or " if config.package else ""
        raise ResolveError(
            f"model {config.name} not found ({'; '.join(tried)}; hub {config.hub_id}: "
            f"{type(error).__name__}); {install}set model.directory to a local copy"
        ) from error


def _hash_weights(path: Path) -> dict[str, str]:
    """Return the sha256 of every safetensors file, by path relative to the model."""
    files = sorted(path.rglob("*.safetensors"))
    if not files:
        unsafe = next((f.name for f in sorted(path.rglob("*")) if f.suffix in _UNSAFE), None)
        seen = f"only {unsafe}, a format that can run code when loaded" if unsafe else "no weights"
        raise ResolveError(
            f"{path}: found {seen}; expected *.safetensors: save the model again with "
            "SentenceTransformer.save(..., safe_serialization=True)"
        )
    return {file.relative_to(path).as_posix(): sha256_file(file) for file in files}


def _combined_sha256(weights: dict[str, str]) -> str:
    """Return the one file's sha256, or that of the ``sha256sum`` lines of several."""
    if len(weights) == 1:
        return next(iter(weights.values()))
    lines = "".join(f"{digest}  {name}\n" for name, digest in sorted(weights.items()))
    return hashlib.sha256(lines.encode()).hexdigest()


def _describe(
    config: ModelConfig,
    path: Path,
    origin: str,
    location: str,
    candidates: tuple[str, ...],
    weights: dict[str, str],
    sha256: str,
    out_dir: Path,
) -> SourceModel:
    """Load the model once to read its max length, pooling and prompts as it applies them."""
    from pipeline.engines.torch import load_sentence_transformer

    model = load_sentence_transformer(
        path, device="cpu", trust_remote_code=config.trust_remote_code
    )
    own_length = model.max_seq_length
    if own_length is None and config.max_length is None:
        raise ResolveError(f"{path}: states no max length; set model.max_length")
    max_length = int(own_length) if config.max_length is None else config.max_length
    if max_length < 3 or (own_length is not None and max_length > own_length):
        raise ResolveError(
            f"model.max_length={max_length}: expected 3 to {own_length}, the model's own max length"
        )
    pooling = next((module for module in model if hasattr(module, "pooling_mode")), None)
    if pooling is not None and not getattr(pooling, "include_prompt", True):
        raise ResolveError(
            f"{path}: its Pooling leaves the prompt's tokens out (include_prompt=false), which the "
            "graph contract cannot express; this model is not supported"
        )
    assets = out_dir / "assets"
    _write_assets(model, path, assets, max_length=max_length)
    return SourceModel(
        name=config.name,
        path=path,
        assets=assets,
        origin=origin,
        location=location,
        revision=config.revision if origin == "hub" else None,
        candidates=candidates,
        weights=weights,
        sha256=sha256,
        max_length=max_length,
        dimension=int(model.get_embedding_dimension()),
        modules=tuple(type(module).__name__ for module in model),
        pooling=_pooling_name(pooling),
        prompts={k: v for k, v in (model.prompts or {}).items() if v},
        default_prompt=model.default_prompt_name,
        trust_remote_code=config.trust_remote_code,
    )


def _pooling_name(pooling: Any) -> str:
    """Return ``mean``, ``cls``, …, several joined by ``+``, or ``none`` without a Pooling."""
    mode = getattr(pooling, "pooling_mode", "none")
    return mode if isinstance(mode, str) else "+".join(mode)


def _write_assets(model: Any, source: Path, assets: Path, *, max_length: int) -> None:
    """Write the files that servers read beside the graph; weights stay behind.

    New Sentence Transformers saves leave out ``max_seq_length`` and the pooling booleans that
    text-embeddings-inference reads, so both forms are written.
    """
    assets.mkdir(parents=True)
    model.tokenizer.save_pretrained(str(assets))
    if not (assets / "tokenizer.json").is_file():
        raise ResolveError(
            f"{source}: its tokenizer has no fast form (tokenizer.json), which the bundle needs; "
            "convert it with transformers' PreTrainedTokenizerFast and save the model again"
        )
    for name in _CONFIGS:
        if (source / name).is_file():
            shutil.copyfile(source / name, assets / name)
    for module in json.loads((source / "modules.json").read_text("utf-8")):
        config = source / module["path"] / "config.json"
        if module["path"] and config.is_file():
            (assets / module["path"]).mkdir(parents=True, exist_ok=True)
            text = config.read_text("utf-8")
            if module["type"].endswith("Pooling"):
                text = json.dumps(_with_pooling_booleans(json.loads(text)), indent=2)
            (assets / module["path"] / "config.json").write_text(text, "utf-8")
    bert = source / "sentence_bert_config.json"
    settings = json.loads(bert.read_text("utf-8")) if bert.is_file() else {}
    settings |= {
        "max_seq_length": max_length,
        "do_lower_case": settings.get("do_lower_case", False),
    }
    (assets / bert.name).write_text(json.dumps(settings, indent=2), "utf-8")


def _with_pooling_booleans(config: dict[str, Any]) -> dict[str, Any]:
    modes = config.get("pooling_mode")
    if modes is None:
        return config
    modes = [modes] if isinstance(modes, str) else modes
    booleans = {key: mode in modes for mode, key in _POOLING_BOOLEANS.items()}
    return {"word_embedding_dimension": config.get("embedding_dimension"), **config, **booleans}
