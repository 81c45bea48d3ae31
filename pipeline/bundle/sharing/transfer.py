"""Push what verifies, pull what verifies."""

import logging
import re
import shutil
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline.bundle.engines import EngineDirectory, Parent, open_parent, read_engine
from pipeline.bundle.manifest import (
    ENGINES,
    MANIFEST,
    MAX_BYTES,
    SIGNATURE,
    TRITON,
    manifest_bytes,
    parse_manifest,
)
from pipeline.bundle.place import publish_directory, staging
from pipeline.bundle.sharing.hub import HubSource, push_to_hub
from pipeline.bundle.sharing.oci import OciSource
from pipeline.bundle.sharing.oci_push import EngineLayers, push_to_registry
from pipeline.bundle.sharing.oci_registry import check_oras
from pipeline.bundle.sharing.reference import HubReference, OciReference, Reference, parse_reference
from pipeline.bundle.triton.repository import write_triton
from pipeline.bundle.verification import require_verified
from pipeline.config import PublishConfig
from pipeline.contracts import sha256_file
from pipeline.engines.lean import plan_module
from pipeline.errors import BundleError, PublishError, ShareError
from pipeline.files import link_or_copy

log = logging.getLogger(__name__)

_SIGNATURE_BYTES = 16 * 2**20
"""It lists every file's digest once more, as the manifest does."""

_ENGINE = re.compile(rf"{ENGINES}/([A-Za-z0-9_][\w.-]*)/{re.escape(MANIFEST)}", re.ASCII)


def references(config: PublishConfig) -> list[Reference]:
    """Return where the config says that a published bundle goes.

    Raises:
        ShareError: a name that is none, or a package that is missing.
    """
    found: list[Reference] = []
    if config.hub.repo_id is not None:
        found.append(parse_reference(f"hf://{config.hub.repo_id}@{config.hub.revision}"))
    if config.oci.reference is not None:
        check_oras()
        found.append(parse_reference(f"oci://{config.oci.reference}"))
    return found


ALL, HERE, NONE = "all", "here", "none"
"""Which engines go along, where they are not named."""


def push(
    bundle: Path,
    reference: Reference,
    *,
    private: bool = True,
    engines: str | Collection[str] = ALL,
) -> Reference:
    """Push a bundle and return a reference to exactly what was pushed.

    ``engines`` names those that go along: ``all``, ``none``, or some. ``triton/`` does not: pulling
    writes it for the engines that were pulled.

    Raises:
        BundleError: the bundle does not verify.
        ShareError: nothing in it was measured, there is no such engine, or it cannot be pushed.
    """
    found = require_verified(bundle)
    if found.status != "passed":
        raise ShareError(f"{bundle}: {found.status}: publish it with validate=default first")
    chosen = _chosen(bundle, found.engines, engines)
    log.info("push %s to %s …", bundle, reference)
    if isinstance(reference, HubReference):
        left_out = {engine.root.name for engine in found.engines}
        left_out -= {engine.root.name for engine in chosen}
        return push_to_hub(bundle, reference, private=private, without=sorted(left_out))
    digest = push_to_registry(
        bundle,
        _digests(bundle, bundle, found.manifest, found.manifest_sha256),
        [
            EngineLayers(
                runtime=engine.runtime,
                version=engine.version,
                target=engine.target,
                digests=_digests(bundle, engine.root, engine.manifest, engine.manifest_sha256),
            )
            for engine in chosen
        ],
        str(found.manifest.get("created", "")),
        reference,
    )
    return OciReference(registry=reference.registry, repository=reference.repository, digest=digest)


def _chosen(
    bundle: Path, there: Sequence[EngineDirectory], wanted: str | Collection[str]
) -> list[EngineDirectory]:
    if isinstance(wanted, str):
        return list(there) if wanted == ALL else []
    known = {engine.root.name: engine for engine in there}
    for name in wanted:
        if name not in known:
            raise ShareError(f"{bundle}: no engine {name}: it has {', '.join(known) or 'none'}")
    return [known[name] for name in known if name in wanted]


def _digests(bundle: Path, root: Path, manifest: Mapping[str, Any], sha256: str) -> dict[str, str]:
    """Return the sha256 of everything in a directory with a manifest, by names in the bundle."""
    place = "" if root == bundle else f"{root.relative_to(bundle).as_posix()}/"
    digests = {f"{place}{MANIFEST}": sha256}
    digests |= {f"{place}{name}": file["sha256"] for name, file in manifest["files"].items()}
    if (root / SIGNATURE).exists():
        digests[f"{place}{SIGNATURE}"] = sha256_file(root / SIGNATURE)
    return digests


def pull(
    reference: Reference,
    target: Path,
    *,
    manifest_sha256: str | None = None,
    public_key: Path | None = None,
    engine_key: Path | None = None,
    engines: str | Collection[str] = HERE,
) -> Reference:
    """Pull a bundle to ``target``, in the place of one that is there; return what was pulled.

    It appears by one rename, once every file is the manifest's. ``engines`` names those that come
    along: ``here`` (what this machine runs), ``all``, ``none``, or some; of the others their
    manifests are read and no more. The keys and ``manifest_sha256`` are as in ``verify_bundle``.

    Raises:
        ShareError: it cannot be pulled, does not verify, or something else is at ``target``.
    """
    place = target.resolve()  # a link to a bundle goes on leading to it
    _check_free(place)
    source = HubSource(reference) if isinstance(reference, HubReference) else OciSource(reference)
    log.info("pull %s to %s …", source.reference, target)
    try:
        with staging(place.parent) as work:
            bundle = work / "bundle"
            bundle.mkdir()
            try:
                parent = _fetch(source, bundle, manifest_sha256)
                fetched = _fetch_engines(source, parent, engines)
                write_triton(bundle / TRITON, parent, fetched)
                require_verified(
                    bundle,
                    manifest_sha256=manifest_sha256,
                    public_key=public_key,
                    engine_key=engine_key,
                )
            except BundleError as error:
                raise ShareError(str(error).replace(str(bundle), str(reference))) from error
            publish_directory(bundle, place)
    except (PublishError, OSError) as error:
        cause = error.__cause__ or error
        reason = cause.strerror if isinstance(cause, OSError) else cause
        raise ShareError(
            f"cannot write {target}: {reason}; name a directory that you may write, with room"
        ) from error
    return source.reference


def _check_free(place: Path) -> None:
    """Make sure that what is about to be replaced is a bundle, not somebody's work."""
    if not place.exists():
        return
    try:
        parse_manifest(place, manifest_bytes(place))
    except BundleError as error:
        raise ShareError(
            f"{place}: there, and no bundle: remove it, or name a directory that does not exist"
        ) from error


def _fetch(source: HubSource | OciSource, bundle: Path, manifest_sha256: str | None) -> Parent:
    """Fetch the manifest, and what it lists once it is one; nothing else."""
    source.fetch(MANIFEST, bundle, most=MAX_BYTES)
    parent = open_parent(bundle, manifest_sha256=manifest_sha256)
    _fetch_files(source, parent.manifest, bundle, "")
    # write_triton reads these before everything is verified.
    for name in ("tokenizer.json", "tokenizer_config.json", "model.onnx"):
        parent.checker.path(name)
    return parent


def _fetch_engines(
    source: HubSource | OciSource, parent: Parent, wanted: str | Collection[str]
) -> list[EngineDirectory]:
    """Fetch the engines that are wanted; whether one runs here, its manifest says."""
    there = sorted({match[1] for name in source.names if (match := _ENGINE.fullmatch(name))})
    if not isinstance(wanted, str):
        for name in wanted:
            if name not in there:
                raise ShareError(
                    f"{source.reference}: no engine {name}: it has {', '.join(there) or 'none'}"
                )
    fetched = []
    for name in there:
        if wanted == NONE or not (isinstance(wanted, str) or name in wanted):
            continue
        place = f"{ENGINES}/{name}"
        source.fetch(f"{place}/{MANIFEST}", parent.root, most=MAX_BYTES)
        engine = read_engine(parent.root / place, parent)
        module, reason = plan_module(
            engine.runtime,
            engine.version,
            engine.target,
            version_compatible=engine.version_compatible,
        )
        if wanted == HERE and module is None:
            log.info("%s: left there: %s", name, reason)
            shutil.rmtree(engine.root)
            continue
        _fetch_files(source, engine.manifest, parent.root, f"{place}/")
        fetched.append(engine)
    return fetched


def _fetch_files(
    source: HubSource | OciSource, manifest: Mapping[str, Any], bundle: Path, place: str
) -> None:
    """Fetch what a manifest lists, none larger than it says, and a signature.

    What is there under two names is fetched once and linked, as where it was published.

    Raises:
        ShareError: the disk has no room for all of it.
    """
    files = manifest["files"]
    needed = sum(size for _, size in {(file["sha256"], file["bytes"]) for file in files.values()})
    free = shutil.disk_usage(bundle).free
    if needed > free:
        raise ShareError(
            f"{source.reference}: its files are {needed / 2**30:,.1f} GiB, and {free / 2**30:,.1f} "
            f"GiB are free at {bundle.parent.parent.parent}: make room, or pull elsewhere"
        )
    fetched: dict[tuple[str, int], Path] = {}
    for name, file in files.items():
        target = bundle / place / name
        twin = fetched.setdefault((file["sha256"], file["bytes"]), target)
        if twin is target:
            source.fetch(f"{place}{name}", bundle, most=file["bytes"])
        else:
            target.parent.mkdir(parents=True, exist_ok=True)
            link_or_copy(twin, target)
    if f"{place}{SIGNATURE}" in source.names:
        source.fetch(f"{place}{SIGNATURE}", bundle, most=_SIGNATURE_BYTES)
