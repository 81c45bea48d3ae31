"""Image manifests and indexes of bundles, as the OCI image specification has them.

https://github.com/opencontainers/image-spec/blob/main/manifest.md
"""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.bundle.manifest import MANIFEST

ARTIFACT_TYPE = "application/vnd.sentence-transformer-trt.bundle.v1"
IMAGE_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
IMAGE_INDEX = "application/vnd.oci.image.index.v1+json"
TITLE = "org.opencontainers.image.title"

EMPTY = b"{}"
EMPTY_DESCRIPTOR = {
    "mediaType": "application/vnd.oci.empty.v1+json",
    "digest": f"sha256:{hashlib.sha256(EMPTY).hexdigest()}",
    "size": len(EMPTY),
}

_MOST = 256
"""Manifests in an index; there are not as many kinds of GPU."""

Layers = dict[str, dict[str, Any]]


def image_manifest(
    layers: Sequence[Mapping[str, Any]], annotations: Mapping[str, str]
) -> dict[str, Any]:
    """Return the manifest of an artifact of these layers."""
    return {
        "schemaVersion": 2,
        "mediaType": IMAGE_MANIFEST,
        "artifactType": ARTIFACT_TYPE,
        "config": EMPTY_DESCRIPTOR,
        "layers": list(layers),
        "annotations": dict(annotations),
    }


def image_index(
    descriptors: Sequence[Mapping[str, Any]], annotations: Mapping[str, str]
) -> dict[str, Any]:
    """Return an index of manifests."""
    return {
        "schemaVersion": 2,
        "mediaType": IMAGE_INDEX,
        "artifactType": ARTIFACT_TYPE,
        "manifests": list(descriptors),
        "annotations": dict(annotations),
    }


def index_digests(found: Any) -> list[str]:
    """Return the digests of an index's manifests; none where it is no index.

    Raises:
        ValueError: it is unlike a bundle's.
    """
    if not isinstance(found, dict) or found.get("mediaType") != IMAGE_INDEX:
        return []
    descriptors = found.get("manifests")
    if not isinstance(descriptors, list) or not 1 <= len(descriptors) <= _MOST:
        raise ValueError("an index without manifests")
    digests = [each.get("digest") for each in descriptors if isinstance(each, dict)]
    if len(digests) < len(descriptors) or not all(isinstance(each, str) for each in digests):
        raise ValueError("an index with a manifest that has no digest")
    return [str(each) for each in digests]


def read_layers(manifest: Any) -> Layers:
    """Return the layers by title.

    Raises:
        ValueError: it is unlike a bundle's.
    """
    if not isinstance(manifest, dict) or not isinstance(manifest.get("layers"), list):
        raise ValueError("no image manifest with layers")
    found: Layers = {}
    for layer in manifest["layers"]:
        annotations = layer.get("annotations") if isinstance(layer, dict) else None
        title = annotations.get(TITLE) if isinstance(annotations, dict) else None
        if not isinstance(title, str) or title in found:
            raise ValueError(f"a layer with the title {title!r}: no bundle")
        if not isinstance(layer.get("digest"), str) or type(layer.get("size")) is not int:
            raise ValueError(f"the layer {title!r} has no digest and size")
        found[title] = layer
    if MANIFEST not in found:
        raise ValueError(f"no layer {MANIFEST}: no bundle")
    return found


def merge_layers(manifests: Sequence[Layers]) -> Layers:
    """Return the layers of all manifests of an index.

    Raises:
        ValueError: one name stands for two files.
    """
    merged: Layers = {}
    for title, layer in (item for layers in manifests for item in layers.items()):
        if merged.setdefault(title, layer)["digest"] != layer["digest"]:
            raise ValueError(f"{title} differs between the manifests of the index: no bundle")
    return merged
