"""What an OCI registry holds of a bundle, to pull from."""

import hashlib
import json
from pathlib import Path

from pipeline.bundle.sharing.oci_manifests import (
    IMAGE_INDEX,
    IMAGE_MANIFEST,
    index_digests,
    merge_layers,
    read_layers,
)
from pipeline.bundle.sharing.oci_registry import connect, log_large, ok, translated
from pipeline.bundle.sharing.reference import OciReference


class OciSource:
    """The files of one image manifest."""

    def __init__(self, reference: OciReference) -> None:
        """Fetch the image manifest, or the index and every manifest in it.

        Raises:
            ShareError: the registry cannot be reached, or has no bundle there.
        """
        self._registry, self._container = connect(reference)
        with translated(reference):
            content, digest = self._manifest(reference.digest)
            found = json.loads(content)
            parts = [json.loads(self._manifest(part)[0]) for part in index_digests(found)]
            self._layers = merge_layers([read_layers(part) for part in parts or [found]])
        self.reference = OciReference(
            registry=reference.registry, repository=reference.repository, digest=digest
        )
        self.names = frozenset(self._layers)

    def _manifest(self, digest: str | None) -> tuple[bytes, str]:
        """Return a manifest's bytes and digest, of the tag where none is asked for."""
        url = f"{self._registry.prefix}://{self._container.manifest_url(digest)}"
        accept = {"Accept": f"{IMAGE_INDEX}, {IMAGE_MANIFEST}"}
        content: bytes = ok(self._registry.do_request(url, "GET", headers=accept)).content
        seen = f"sha256:{hashlib.sha256(content).hexdigest()}"
        if digest not in (None, seen):
            raise ValueError(f"the registry sent a manifest of {seen}")
        return content, seen

    def fetch(self, name: str, directory: Path, *, most: int) -> None:
        """Download a file of at most ``most`` bytes to its place in a directory.

        Raises:
            ShareError: there is no such file, it is larger, or the registry refuses.
        """
        target = directory / name
        target.parent.mkdir(parents=True, exist_ok=True)
        with translated(self.reference):
            if name not in self._layers:
                raise ValueError(f"no {name} there")
            layer = self._layers[name]
            if layer["size"] > most:
                raise ValueError(f"{name} is of {layer['size']} bytes there, {most} at most")
            log_large(layer)
            blob = self._registry.get_blob(self._container, layer["digest"], stream=True)
            with ok(blob), target.open("wb") as out:
                for chunk in blob.iter_content(2**20):
                    out.write(chunk)
                    if out.tell() > layer["size"]:
                        raise ValueError(f"{name} is larger than {layer['size']} bytes")
