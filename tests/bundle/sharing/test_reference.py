"""reference: what names a place on the hub or in a registry, and what does not."""

import pytest

from pipeline.bundle.sharing.reference import HubReference, OciReference, parse_reference
from pipeline.errors import ShareError

DIGEST = f"sha256:{'0123' * 16}"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("hf://me/minilm", HubReference(repo_id="me/minilm")),
        ("hf://me/minilm@v1.2", HubReference(repo_id="me/minilm", revision="v1.2")),
        (
            "oci://ghcr.io/me/minilm:int8",
            OciReference(registry="ghcr.io", repository="me/minilm", tag="int8"),
        ),
        (
            "oci://localhost:5000/minilm",
            OciReference(registry="localhost:5000", repository="minilm"),
        ),
        (
            f"oci://ghcr.io/me/minilm@{DIGEST}",
            OciReference(registry="ghcr.io", repository="me/minilm", digest=DIGEST),
        ),
    ],
)
def test_reference(text: str, expected: HubReference | OciReference) -> None:
    assert parse_reference(text) == expected
    assert parse_reference(str(expected)) == expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        "me/minilm",
        "hf://minilm",
        "hf://a/b/c",
        "hf://me/mini lm",
        "oci://minilm",
        "oci://GHCR.io/me/minilm",
        "oci://ghcr.io/../x",
        "oci://ghcr.io/me/minilm:bad tag",
        "oci://ghcr.io/me/minilm@sha256:123",
        "https://ghcr.io/me/minilm",
    ],
)
def test_no_reference(text: str) -> None:
    with pytest.raises(ShareError, match="not a reference; expected hf://"):
        parse_reference(text)
