"""Find a Sentence Transformer's files: a directory, an installed package, or a hub's snapshot."""

import logging
import re
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from pipeline.config import ModelConfig
from pipeline.errors import ResolveError

log = logging.getLogger(__name__)

UNSAFE = (".bin", ".pt", ".pth", ".pkl", ".ckpt", ".h5", ".msgpack")
"""Endings of weights that can run code when loaded."""

_COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Located:
    """The model's directory, where it came from, and what was tried, in order."""

    path: Path
    origin: str
    location: str
    revision: str | None = None
    candidates: tuple[str, ...]


def locate(config: ModelConfig) -> Located:
    """Return where the model is: ``directory``, installed ``package``, or ``hub_id``.

    Raises:
        ResolveError: nothing that the config names is there.
    """
    located = _locate(config)
    for line in located.candidates:
        log.info("model %s: %s", config.name, line)
    return located


def _locate(config: ModelConfig) -> Located:
    tried: list[str] = []
    if config.directory is not None:
        path = Path(config.directory)
        if not (path / "modules.json").is_file():
            raise ResolveError(
                f"model.directory={config.directory}: no modules.json there, so it is not a "
                "Sentence Transformer; point it at one saved with SentenceTransformer.save()"
            )
        return Located(
            path=path, origin="directory", location=str(path), candidates=("directory: used",)
        )
    tried.append("directory: not set")
    if config.package is not None:
        found = _in_package(config.package)
        if found is not None:
            path, version = found
            location = f"{config.package}=={version}"
            return Located(
                path=path,
                origin="package",
                location=location,
                candidates=(*tried, f"package {location}: used"),
            )
        tried.append(f"package {config.package}: not installed")
    else:
        tried.append("package: not set")
    if config.hub_id is None:
        raise ResolveError(
            f"model {config.name} not found ({'; '.join(tried)}; hub_id: not set); "
            "set model.directory, model.package or model.hub_id"
        )
    path, commit = _from_hub(config, tried)
    location = f"{config.hub_id}@{commit}"
    return Located(
        path=path,
        origin="hub",
        location=location,
        revision=commit,
        candidates=(*tried, f"hub {location}: used"),
    )


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


def _from_hub(config: ModelConfig, tried: list[str]) -> tuple[Path, str]:
    """Return the snapshot's directory and its commit, which is the directory's name."""
    if config.revision is not None and not _COMMIT.fullmatch(config.revision):
        raise ResolveError(
            f"model.hub_id={config.hub_id}: revision is {config.revision!r}, expected a commit of "
            "40 hex digits; set model.revision so that the same weights come every night, or to "
            "null to take the newest and be told which it is"
        )
    from huggingface_hub import snapshot_download

    try:
        path = Path(
            snapshot_download(
                str(config.hub_id),
                revision=config.revision,
                ignore_patterns=[*(f"*{s}" for s in UNSAFE), "*.onnx", "onnx/*", "openvino/*"],
            )
        )
    except Exception as error:  # the hub's, or what carries it: requests or httpx, by its version
        raise ResolveError(
            f"model {config.name} not found ({'; '.join(tried)}; hub {config.hub_id}: "
            f"{type(error).__name__}); {_remedy(config, error)}"
        ) from error
    if config.revision is None:
        log.warning(
            "model %s: not pinned: the newest commit of %s is %s; pin it with model.revision=%s",
            config.name,
            config.hub_id,
            path.name,
            path.name,
        )
    return path, path.name


def _remedy(config: ModelConfig, error: Exception) -> str:
    """Return what to change, by what the hub answered."""
    from huggingface_hub.errors import (
        GatedRepoError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    if isinstance(error, RevisionNotFoundError):
        return (
            f"it has no commit {config.revision}: set model.revision to one that it has, or to "
            "null to take the newest and be told which it is"
        )
    if isinstance(error, GatedRepoError):
        return "accept its terms on the hub and log in (hf auth login)"
    if isinstance(error, RepositoryNotFoundError):
        return "correct model.hub_id; if it is private, log in (hf auth login)"
    install = f"pip install {config.package}, or " if config.package else ""
    return f"{install}set model.directory to a local copy"
