"""A registry that sends without end, or says that it will: nothing is read beyond what was checked.

The server is a thread of this test; whatever it sends stops when the client hangs up or the test is
over, and no socket waits longer than ``PATIENCE_S``.
"""

import json
import threading
from collections.abc import Callable, Iterator
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from bundles import manifest_of

from pipeline.bundle.sharing import oci_registry
from pipeline.bundle.sharing.oci_manifests import IMAGE_INDEX, TITLE, image_manifest
from pipeline.bundle.sharing.reference import OciReference
from pipeline.bundle.sharing.transfer import pull
from pipeline.errors import ShareError

pytest.importorskip("oras")

PATIENCE_S = 10
TEN_TB = 10 * 10**12
MOST = 2**20
"""Of documents, in these tests."""

Answer = Callable[["Handler"], None]


class Handler(BaseHTTPRequestHandler):
    """Answers with the server's ``answers``, by what a path ends in."""

    timeout = PATIENCE_S
    server: "Server"

    def log_message(self, *_: Any) -> None:
        """Say nothing."""

    def do_GET(self) -> None:
        """Answer the longest ending that fits."""
        fitting = [end for end in self.server.answers if self.path.split("?")[0].endswith(end)]
        self.server.answers[max(fitting, key=len)](self)

    def send(self, content: bytes, code: int = 200, **headers: str) -> None:
        """Send a whole answer."""
        self.send_response(code)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def send_forever(self, code: int = 200, **headers: str) -> None:
        """Send until nobody reads any more."""
        self.send_response(code)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        chunk = b" " * 2**16
        try:
            while not self.server.over.is_set():
                self.wfile.write(chunk)
                self.server.sent += len(chunk)
        except OSError:
            pass


class Server(ThreadingHTTPServer):
    """Holds what is answered, and counts what was sent without end."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.answers: dict[str, Answer] = {"": lambda handler: handler.send(b"{}", 404)}
        self.over = threading.Event()
        self.sent = 0

    def serves(self, bundle: Path, change: Callable[[dict[str, Any]], None]) -> None:
        """Answer with a bundle whose image manifest was changed."""
        manifest = manifest_of(bundle)
        names = ["manifest.json", *manifest["files"]]
        layers: list[dict[str, Any]] = []
        for name in names:
            content = (bundle / name).read_bytes()
            digest = f"sha256:{sha256(content).hexdigest()}"
            layers.append({"digest": digest, "size": len(content), "annotations": {TITLE: name}})
            self.answers[digest] = lambda handler, content=content: handler.send(content)  # type: ignore[misc]
        image = image_manifest(layers, {})
        change({layer["annotations"][TITLE]: layer for layer in layers})
        content = json.dumps(image).encode()
        self.answers["manifests/int8"] = lambda handler: handler.send(content)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """A registry on this machine; documents may be of a mebibyte, so that it ends soon."""
    monkeypatch.setattr(oci_registry, "MOST_OF_DOCUMENTS", MOST)
    monkeypatch.setattr(oci_registry, "TIMEOUT_S", PATIENCE_S)
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        yield server
        server.over.set()
        server.shutdown()
        thread.join(PATIENCE_S)


def refused(server: Server, tmp_path: Path) -> str:
    """Pull, and return the words of the refusal, which left nothing."""
    registry = f"127.0.0.1:{server.server_port}"
    reference = OciReference(registry=registry, repository="me/tiny", tag="int8")
    with pytest.raises(ShareError) as caught:
        pull(reference, tmp_path / "target", engines="all")
    assert not (tmp_path / "target").exists()
    assert not list((tmp_path / ".staging").glob("*"))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def challenge(handler: Handler) -> None:
    """Ask for a token, which is at /token."""
    realm = f"http://127.0.0.1:{handler.server.server_port}/token"
    asked = f'Bearer realm="{realm}",service="r",scope="pull"'
    handler.send(b"{}", 401, WWW_Authenticate=asked)


ENDLESS: dict[str, dict[str, Answer]] = {
    "an image manifest": {"manifests/int8": lambda h: h.send_forever()},
    "an image manifest, refused": {"manifests/int8": lambda h: h.send_forever(500)},
    "a redirect": {"manifests/int8": lambda h: h.send_forever(302, Location="/elsewhere")},
    "a token": {"manifests/int8": challenge, "token": lambda h: h.send_forever()},
}


@pytest.mark.many
@pytest.mark.parametrize("what", ENDLESS)
def test_a_document_without_end(what: str, server: Server, tmp_path: Path) -> None:
    server.answers |= ENDLESS[what]
    assert "more than 1 MiB of image manifests or other documents" in refused(server, tmp_path)
    assert server.sent < 64 * MOST  # what the sockets' buffers take comes on top


@pytest.mark.slow
def test_an_index_of_many_manifests(server: Server, tmp_path: Path) -> None:
    """Each is small enough; together they are not."""
    large = json.dumps({"layers": [], "padding": "x" * (MOST // 3)}).encode()
    digest = f"sha256:{sha256(large).hexdigest()}"
    index = {"mediaType": IMAGE_INDEX, "manifests": [{"digest": digest}] * 200}
    server.answers["manifests/int8"] = lambda h: h.send(json.dumps(index).encode())
    server.answers[digest] = lambda h: h.send(large)
    assert "more than 1 MiB of image manifests" in refused(server, tmp_path)


def test_a_layer_that_is_said_to_be_huge(tiny_bundle: Path, server: Server, tmp_path: Path) -> None:
    def huge(layers: dict[str, Any]) -> None:
        layers["model.onnx"]["size"] = TEN_TB
        server.answers[layers["model.onnx"]["digest"]] = lambda h: h.send_forever()

    server.serves(tiny_bundle, huge)
    size = (tiny_bundle / "model.onnx").stat().st_size
    words = f"model.onnx is of {TEN_TB} bytes there, {size} at most"
    assert words in refused(server, tmp_path)
    assert server.sent == 0


@pytest.mark.parametrize("name", ["model.onnx", "manifest.json", "report.json"])
def test_a_layer_without_end(name: str, tiny_bundle: Path, server: Server, tmp_path: Path) -> None:
    """It is said to be of the right size."""

    def endless(layers: dict[str, Any]) -> None:
        server.answers[layers[name]["digest"]] = lambda h: h.send_forever()

    server.serves(tiny_bundle, endless)
    assert f"{name} is larger than" in refused(server, tmp_path)
    assert server.sent < 64 * MOST


def test_a_manifest_that_is_huge(tiny_bundle: Path, server: Server, tmp_path: Path) -> None:
    server.serves(tiny_bundle, lambda layers: layers["manifest.json"].update(size=TEN_TB))
    assert f"manifest.json is of {TEN_TB} bytes there" in refused(server, tmp_path)


def test_a_bundle_larger_than_the_disk(tiny_bundle: Path, server: Server, tmp_path: Path) -> None:
    """Its own manifest says so; nothing of it is fetched."""
    manifest = manifest_of(tiny_bundle)
    manifest["files"]["model.onnx"]["bytes"] = 10**18
    content = json.dumps(manifest).encode()
    digest = f"sha256:{sha256(content).hexdigest()}"

    def other(layers: dict[str, Any]) -> None:
        layers["manifest.json"] |= {"digest": digest, "size": len(content)}
        server.answers[layers["model.onnx"]["digest"]] = lambda h: h.send_forever()

    server.serves(tiny_bundle, other)
    server.answers[digest] = lambda h: h.send(content)
    message = refused(server, tmp_path)
    assert "GiB are free at" in message
    assert server.sent == 0


@pytest.mark.parametrize("layer", ["text", {"annotations": []}, {"annotations": {TITLE: "a"}}])
def test_an_odd_layer(layer: Any, server: Server, tmp_path: Path) -> None:
    content = json.dumps({"layers": [layer]}).encode()
    server.answers["manifests/int8"] = lambda h: h.send(content)
    message = refused(server, tmp_path)
    assert "no bundle" in message or "has no digest and size" in message
