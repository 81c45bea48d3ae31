"""Push to an OCI registry: one layer a file, its title the name in the bundle.

So ``oras pull`` and ``docker``-style mirrors handle it too.
"""

import hashlib
import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from pipeline.bundle.manifest import MANIFEST
from pipeline.bundle.sharing.oci_manifests import (
    ARTIFACT_TYPE,
    EMPTY,
    EMPTY_DESCRIPTOR,
    TITLE,
    image_index,
    image_manifest,
)
from pipeline.bundle.sharing.oci_registry import connect, log_large, ok, translated
from pipeline.bundle.sharing.reference import OciReference

MANIFEST_SHA256 = "sentence-transformer-trt.manifest.sha256"
"""The annotation that holds the sha256 of manifest.json."""

TARGET = "sentence-transformer-trt.engine.target"
RUNTIME = "sentence-transformer-trt.engine.runtime"
"""The annotations of a manifest with engines: which GPUs they are for, and of which runtime."""

_CREATED = "org.opencontainers.image.created"
_MEDIA_TYPES = {
    ".json": "application/json",
    ".md": "text/markdown",
    ".html": "text/html",
    ".xml": "application/xml",
    ".txt": "text/plain",
    ".onnx": "application/vnd.onnx.model",
    ".plan": "application/vnd.nvidia.tensorrt.plan",
}
_IN_ONE_PIECE = 512 * 2**20
"""oras reads what it sends in one piece into memory; some registries take nothing else."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineLayers:
    """An engine's files: their sha256 by their names in the bundle."""

    runtime: str
    version: str
    target: str
    digests: Mapping[str, str]


def push_to_registry(
    bundle: Path,
    digests: Mapping[str, str],
    engines: Sequence[EngineLayers],
    created: str,
    reference: OciReference,
) -> str:
    """Upload files, equal ones once, and return the digest of what the reference now names.

    ``digests`` are their sha256 by name, found before: the registry refuses other bytes. Without
    engines that is an image manifest. With engines it is an index: a manifest of the bundle alone,
    and for each GPU target one of the bundle with that target's engines.

    Raises:
        ShareError: the registry cannot be reached or refuses.
    """
    registry, container = connect(reference)
    own = [_layer(bundle, name, sha256) for name, sha256 in digests.items()]
    added = [
        [_layer(bundle, name, sha256) for name, sha256 in engine.digests.items()]
        for engine in engines
    ]
    about = {MANIFEST_SHA256: digests[MANIFEST], _CREATED: created}
    layers = [*own, *(layer for each in added for layer in each)]
    by_digest = {layer["digest"]: layer for layer in reversed(layers)}
    with translated(reference):
        for layer in by_digest.values():
            path = bundle / layer["annotations"][TITLE]
            log_large(layer)
            large = layer["size"] > _IN_ONE_PIECE
            ok(registry.upload_blob(str(path), container, layer, do_chunked=large))
        with tempfile.NamedTemporaryFile() as config:
            config.write(EMPTY)
            config.flush()
            ok(registry.upload_blob(config.name, container, EMPTY_DESCRIPTOR))
        plain = image_manifest(own, about)
        if not engines:
            return str(_put(registry, container, plain, tag=True)["digest"])
        parts = [_put(registry, container, plain, tag=False)]
        by_target: dict[str, list[int]] = {}
        for i, engine in enumerate(engines):
            by_target.setdefault(engine.target, []).append(i)
        for target, indices in by_target.items():
            whole = [*own, *(layer for i in indices for layer in added[i])]
            versions = [f"{engines[i].runtime} {engines[i].version}" for i in indices]
            said = {TARGET: target, RUNTIME: ", ".join(versions)}
            part = _put(registry, container, image_manifest(whole, about | said), tag=False)
            parts.append(part | {"annotations": said})
        return str(_put(registry, container, image_index(parts, about), tag=True)["digest"])


def _put(
    registry: Any, container: Any, manifest: Mapping[str, Any], *, tag: bool
) -> dict[str, Any]:
    """Upload a manifest, by its tag or by its digest alone, and return its descriptor."""
    content = json.dumps(manifest).encode()
    digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
    url = f"{registry.prefix}://{container.manifest_url(None if tag else digest)}"
    kind = manifest["mediaType"]
    ok(registry.do_request(url, "PUT", headers={"Content-Type": kind}, data=content))
    return {
        "mediaType": kind,
        "artifactType": ARTIFACT_TYPE,
        "digest": digest,
        "size": len(content),
    }


def _layer(bundle: Path, name: str, sha256: str) -> dict[str, Any]:
    return {
        "mediaType": _MEDIA_TYPES.get(PurePosixPath(name).suffix, "application/octet-stream"),
        "digest": f"sha256:{sha256}",
        "size": (bundle / name).stat().st_size,
        "annotations": {TITLE: name},
    }
