"""Parse where a bundle is shared: ``hf://me/minilm-int8@main``, ``oci://ghcr.io/me/minilm``."""

import re
from dataclasses import dataclass

from pipeline.errors import ShareError

_HUB = re.compile(r"(?P<repo_id>[\w.-]+/[\w.-]+)(?:@(?P<revision>[\w./-]+))?", re.ASCII)
_OCI = re.compile(
    r"(?P<registry>[a-z0-9.-]+(?::\d+)?)"
    r"/(?P<repository>[a-z0-9]+(?:[._/-]+[a-z0-9]+)*)"
    r"(?::(?P<tag>[\w][\w.-]{0,127})|@(?P<digest>sha256:[0-9a-f]{64}))?",
    re.ASCII,
)
_EXPECTED = "expected hf://OWNER/NAME[@REVISION] or oci://REGISTRY/REPOSITORY[:TAG]"


@dataclass(frozen=True, slots=True, kw_only=True)
class HubReference:
    """A repository on the Hugging Face hub, and a branch, a tag or a commit of it."""

    repo_id: str
    revision: str = "main"

    def __str__(self) -> str:
        return f"hf://{self.repo_id}@{self.revision}"


@dataclass(frozen=True, slots=True, kw_only=True)
class OciReference:
    """A repository in an OCI registry, and a tag of it or the digest of a manifest there."""

    registry: str
    repository: str
    tag: str = "latest"
    digest: str | None = None

    @property
    def name(self) -> str:
        """The reference as registries' clients write it."""
        version = f"@{self.digest}" if self.digest else f":{self.tag}"
        return f"{self.registry}/{self.repository}{version}"

    def __str__(self) -> str:
        return f"oci://{self.name}"


Reference = HubReference | OciReference


def parse_reference(text: str) -> Reference:
    """Return what a reference names.

    Raises:
        ShareError: it names neither the hub nor a registry.
    """
    scheme, _, rest = text.partition("://")
    if scheme == "hf" and (match := _HUB.fullmatch(rest)):
        return HubReference(repo_id=match["repo_id"], revision=match["revision"] or "main")
    if scheme == "oci" and (match := _OCI.fullmatch(rest)):
        return OciReference(
            registry=match["registry"],
            repository=match["repository"],
            tag=match["tag"] or "latest",
            digest=match["digest"],
        )
    raise ShareError(f"{text}: not a reference; {_EXPECTED}")
