"""Push what verifies, pull what verifies."""

import logging
from pathlib import Path

from pipeline.bundle.manifest import MANIFEST, SIGNATURE, manifest_bytes, parse_manifest
from pipeline.bundle.place import publish_directory, staging
from pipeline.bundle.sharing.hub import HubSource, push_to_hub
from pipeline.bundle.sharing.oci import OciSource, check_oras, push_to_registry
from pipeline.bundle.sharing.reference import HubReference, OciReference, Reference, parse_reference
from pipeline.bundle.verification import require_verified
from pipeline.config import PublishConfig
from pipeline.contracts import sha256_file
from pipeline.errors import BundleError, PublishError, ShareError

log = logging.getLogger(__name__)


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


def push(bundle: Path, reference: Reference, *, private: bool = True) -> Reference:
    """Push a bundle and return a reference to exactly what was pushed.

    Raises:
        BundleError: the bundle does not verify.
        ShareError: nothing in it was measured, or it cannot be pushed.
    """
    found = require_verified(bundle)
    if found.status != "passed":
        raise ShareError(f"{bundle}: {found.status}: publish it with validate=default first")
    log.info("push %s to %s …", bundle, reference)
    if isinstance(reference, HubReference):
        return push_to_hub(bundle, reference, private=private)
    digests = {MANIFEST: found.manifest_sha256}
    digests |= {name: file["sha256"] for name, file in found.manifest["files"].items()}
    if (bundle / SIGNATURE).exists():
        digests[SIGNATURE] = sha256_file(bundle / SIGNATURE)
    digest = push_to_registry(bundle, digests, str(found.manifest.get("created", "")), reference)
    return OciReference(registry=reference.registry, repository=reference.repository, digest=digest)


def pull(
    reference: Reference,
    target: Path,
    *,
    manifest_sha256: str | None = None,
    public_key: Path | None = None,
) -> Reference:
    """Pull a bundle to ``target``, in the place of one that is there; return what was pulled.

    It appears by one rename, once every file is the manifest's. ``manifest_sha256`` and
    ``public_key`` are as in ``verify_bundle``.

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
                _fetch(source, bundle, manifest_sha256)
                require_verified(bundle, manifest_sha256=manifest_sha256, public_key=public_key)
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


def _fetch(source: HubSource | OciSource, bundle: Path, manifest_sha256: str | None) -> None:
    """Fetch the manifest, and what it lists once it is one; nothing else."""
    source.fetch(MANIFEST, bundle)
    manifest = parse_manifest(bundle, manifest_bytes(bundle), sha256=manifest_sha256)
    for name in manifest["files"]:
        source.fetch(name, bundle)
    if SIGNATURE in source.names:
        source.fetch(SIGNATURE, bundle)
