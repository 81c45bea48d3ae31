"""Push to and pull from an OCI registry, through oras (extra: oci): one layer a file.

So ``oras pull`` and ``docker``-style mirrors handle it too. Names and passwords are those of
``docker login`` (https://github.com/opencontainers/image-spec/blob/main/manifest.md).
"""

import contextlib
import functools
import hashlib
import importlib.util
import json
import logging
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from pipeline.bundle.manifest import MANIFEST, MAX_BYTES
from pipeline.bundle.sharing.reference import OciReference
from pipeline.errors import ShareError
from pipeline.files import link_or_copy

log = logging.getLogger(__name__)

ARTIFACT_TYPE = "application/vnd.sentence-transformer-trt.bundle.v1"
MANIFEST_SHA256 = "sentence-transformer-trt.manifest.sha256"
"""The annotation that holds the sha256 of manifest.json."""

_IMAGE_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
_TITLE = "org.opencontainers.image.title"
_CREATED = "org.opencontainers.image.created"
_EMPTY = b"{}"
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

_TIMEOUT_S = 60


def check_oras() -> None:
    """Find out before any work whether a registry can be spoken to.

    Raises:
        ShareError: oras is not installed.
    """
    if importlib.util.find_spec("oras") is None:
        raise ShareError("OCI registries need the Python package oras (extra: oci): install it")


def push_to_registry(
    bundle: Path, digests: Mapping[str, str], created: str, reference: OciReference
) -> str:
    """Upload files, equal ones once, and return the digest of the image manifest.

    ``digests`` are their sha256 by name, found before: the registry refuses other bytes.

    Raises:
        ShareError: the registry cannot be reached or refuses.
    """
    registry, container = _connect(reference)
    layers = [_layer(bundle, name, sha256) for name, sha256 in digests.items()]
    manifest = {
        "schemaVersion": 2,
        "mediaType": _IMAGE_MANIFEST,
        "artifactType": ARTIFACT_TYPE,
        "config": {
            "mediaType": "application/vnd.oci.empty.v1+json",
            "digest": f"sha256:{hashlib.sha256(_EMPTY).hexdigest()}",
            "size": len(_EMPTY),
        },
        "layers": layers,
        "annotations": {
            MANIFEST_SHA256: digests[MANIFEST],
            _CREATED: created,
        },
    }
    by_digest = {layer["digest"]: layer for layer in reversed(layers)}
    with _translated(reference):
        for layer in by_digest.values():
            path = bundle / layer["annotations"][_TITLE]
            _log_large(layer)
            large = layer["size"] > _IN_ONE_PIECE
            _ok(registry.upload_blob(str(path), container, layer, do_chunked=large))
        with tempfile.NamedTemporaryFile() as config:
            config.write(_EMPTY)
            config.flush()
            _ok(registry.upload_blob(config.name, container, manifest["config"]))
        response = _ok(registry.upload_manifest(manifest, container))
    return str(response.headers["Docker-Content-Digest"])


def _log_large(layer: Mapping[str, Any]) -> None:
    if layer["size"] >= 2**20:
        log.info("%s: %.1f MiB", layer["annotations"][_TITLE], layer["size"] / 2**20)


def _layer(bundle: Path, name: str, sha256: str) -> dict[str, Any]:
    return {
        "mediaType": _MEDIA_TYPES.get(PurePosixPath(name).suffix, "application/octet-stream"),
        "digest": f"sha256:{sha256}",
        "size": (bundle / name).stat().st_size,
        "annotations": {_TITLE: name},
    }


class OciSource:
    """The files of one image manifest."""

    def __init__(self, reference: OciReference) -> None:
        """Fetch the image manifest.

        Raises:
            ShareError: the registry cannot be reached, or has no bundle there.
        """
        self._registry, self._container = _connect(reference)
        with _translated(reference):
            url = f"{self._registry.prefix}://{self._container.manifest_url()}"
            response = _ok(
                self._registry.do_request(url, "GET", headers={"Accept": _IMAGE_MANIFEST})
            )
            digest = f"sha256:{hashlib.sha256(response.content).hexdigest()}"
            if reference.digest not in (None, digest):
                raise ValueError(f"the registry sent a manifest of {digest}")
            self._layers = _layers(json.loads(response.content))
        self.reference = OciReference(
            registry=reference.registry, repository=reference.repository, digest=digest
        )
        self.names = frozenset(self._layers)
        self._fetched: dict[str, Path] = {}

    def fetch(self, name: str, directory: Path) -> None:
        """Download a file to its place in a directory; one of equal bytes is linked.

        Raises:
            ShareError: there is no such file, it is larger than said, or the registry refuses.
        """
        target = directory / name
        target.parent.mkdir(parents=True, exist_ok=True)
        with _translated(self.reference):
            if name not in self._layers:
                raise ValueError(f"no {name} there")
            layer = self._layers[name]
            if name == MANIFEST and layer["size"] > MAX_BYTES:
                raise ValueError(f"{name} of {layer['size']} bytes")
            twin = self._fetched.setdefault(layer["digest"], target)
            if twin is not target:
                link_or_copy(twin, target)
                return
            _log_large(layer)
            blob = self._registry.get_blob(self._container, layer["digest"], stream=True)
            with _ok(blob), target.open("wb") as out:
                for chunk in blob.iter_content(2**20):
                    out.write(chunk)
                    if out.tell() > layer["size"]:
                        raise ValueError(f"{name} is larger than {layer['size']} bytes")


def _layers(manifest: Any) -> dict[str, dict[str, Any]]:
    """Return the layers by title; what is unlike a bundle's is refused."""
    if not isinstance(manifest, dict) or not isinstance(manifest.get("layers"), list):
        raise ValueError("no image manifest with layers")
    found: dict[str, dict[str, Any]] = {}
    for layer in manifest["layers"]:
        title = (layer.get("annotations") or {}).get(_TITLE)
        if not isinstance(title, str) or title in found:
            raise ValueError(f"a layer with the title {title!r}: no bundle")
        if not isinstance(layer.get("digest"), str) or not isinstance(layer.get("size"), int):
            raise ValueError(f"the layer {title!r} has no digest and size")
        found[title] = layer
    if MANIFEST not in found:
        raise ValueError(f"no layer {MANIFEST}: no bundle")
    return found


def _connect(reference: OciReference) -> tuple[Any, Any]:
    """Return oras' registry and container; plain HTTP for this machine only, as Docker does."""
    check_oras()
    import oras.provider  # first of its modules: they import each other

    once = oras.provider.Registry.do_request.__wrapped__

    class Registry(oras.provider.Registry):  # type: ignore[misc]
        """oras tries for over two minutes, also what was refused for good."""

        do_request = oras.decorator.retry(attempts=1, timeout=0)(once)

    logging.getLogger("oras.logger").setLevel(logging.CRITICAL)  # said once, by our own error
    host = reference.registry.partition(":")[0]
    registry = Registry(insecure=host in ("localhost", "127.0.0.1"))
    registry.session.request = functools.partial(registry.session.request, timeout=_TIMEOUT_S)
    container = oras.container.Container(reference.name)
    registry.auth.load_configs(container)
    return registry, container


def _ok(response: Any) -> Any:
    if response.status_code not in (200, 201, 202):
        with contextlib.suppress(ValueError, AttributeError, LookupError):
            reason = response.json()["errors"][0]
            raise _RefusedError(f"{reason['code']}: {reason['message']}")
        raise _RefusedError(f"{response.status_code} {response.reason}")
    return response


class _RefusedError(Exception):
    """The registry's own words."""


@contextlib.contextmanager
def _translated(reference: OciReference) -> Iterator[None]:
    from requests.exceptions import ConnectionError as Unreachable
    from requests.exceptions import Timeout

    try:
        yield
    except (Unreachable, Timeout) as error:
        raise ShareError(
            f"{reference}: {reference.registry} cannot be reached ({type(error).__name__}); check "
            "the name and the network"
        ) from error
    except Exception as error:  # oras raises whatever it meets, Exception itself among it
        words = " ".join(str(error).split())[:300] or type(error).__name__
        raise ShareError(
            f"{reference}: {words}; check the name, and log in with docker login or oras login"
        ) from error
