"""oci: a bundle through a real registry and back, and what a registry may do wrong."""

import json
import os
import shutil
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from bundles import ENGINE, PLAN, add_engine, bind_again, flip, list_again

from pipeline.bundle.sharing.oci import OciSource
from pipeline.bundle.sharing.oci_manifests import IMAGE_INDEX, IMAGE_MANIFEST
from pipeline.bundle.sharing.oci_push import MANIFEST_SHA256, RUNTIME, TARGET
from pipeline.bundle.sharing.reference import OciReference, Reference, parse_reference
from pipeline.bundle.sharing.transfer import pull, push
from pipeline.bundle.verification import Verification, require_verified
from pipeline.contracts import sha256_file
from pipeline.errors import BundleError, ShareError
from pipeline.runtime import load
from pipeline.share import main

pytest.importorskip("oras")

CONFIG = """
version: 0.1
log: {{level: error}}
storage:
  filesystem: {{rootdirectory: {root}}}
  maintenance: {{uploadpurging: {{enabled: false}}}}
http: {{addr: "127.0.0.1:{port}"}}
"""


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port


class Registry:
    """Debian's docker-registry on a free port, and the files it keeps."""

    def __init__(self, root: Path, port: int) -> None:
        self.root = root
        self.name = f"127.0.0.1:{port}"

    def reference(self, tag: str = "int8") -> OciReference:
        return OciReference(registry=self.name, repository="me/tiny", tag=tag)

    def image_manifest(self, tag: str) -> dict[str, Any]:
        request = urllib.request.Request(
            f"http://{self.name}/v2/me/tiny/manifests/{tag}",
            headers={"Accept": f"{IMAGE_INDEX}, {IMAGE_MANIFEST}"},
        )
        with urllib.request.urlopen(request) as response:
            found: dict[str, Any] = json.load(response)
            return found

    def put(self, tag: str, manifest: dict[str, Any]) -> None:
        request = urllib.request.Request(
            f"http://{self.name}/v2/me/tiny/manifests/{tag}",
            data=json.dumps(manifest).encode(),
            headers={"Content-Type": manifest["mediaType"]},
            method="PUT",
        )
        urllib.request.urlopen(request).close()

    def blob(self, sha256: str) -> Path:
        return self.root / f"docker/registry/v2/blobs/sha256/{sha256[:2]}/{sha256}/data"


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    """A registry of this test alone."""
    command = shutil.which("docker-registry")
    if command is None:
        pytest.skip("docker-registry is not installed (Debian: apt-get install docker-registry)")
    root, port = tmp_path_factory.mktemp("registry"), free_port()
    config = root / "config.yml"
    config.write_text(CONFIG.format(root=root, port=port))
    with subprocess.Popen(
        [command, "serve", str(config)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as process:
        try:
            for _ in range(200):
                with socket.socket() as probe:
                    if probe.connect_ex(("127.0.0.1", port)) == 0:
                        break
                time.sleep(0.05)
            yield Registry(root, port)
        finally:
            process.terminate()


@pytest.fixture
def bundle(tiny_bundle: Path, tmp_path: Path) -> Path:
    """A copy of the tiny bundle that holds one file twice, as a hard link."""
    copy = shutil.copytree(tiny_bundle, tmp_path / "bundle")
    (copy / "twice").mkdir()
    os.link(copy / "model.onnx", copy / "twice" / "model.onnx")
    list_again(copy, "twice/model.onnx")
    bind_again(copy)
    return copy


def get(reference: Reference, target: Path, **more: Any) -> Reference:
    """Pull with every engine; this machine runs none of them."""
    return pull(reference, target, engines="all", **more)


def shared(bundle: Path) -> set[str]:
    """The names of what is pushed: triton/ is made anew where it is pulled."""
    return {name for name in contents(bundle) if not name.startswith("triton/")}


def contents(bundle: Path) -> dict[str, bytes]:
    return {
        path.relative_to(bundle).as_posix(): path.read_bytes()
        for path in bundle.rglob("*")
        if path.is_file()
    }


@pytest.mark.slow
def test_there_and_back(bundle: Path, registry: Registry, tmp_path: Path) -> None:
    pushed = push(bundle, registry.reference())
    target = tmp_path / "models" / "tiny"
    assert get(registry.reference(), target) == pushed
    assert contents(target) == contents(bundle)
    assert (target / "twice" / "model.onnx").samefile(target / "model.onnx")
    assert load(target, "onnxruntime").dimension == 32
    assert list((tmp_path / "models" / ".staging").iterdir()) == []
    again = tmp_path / "again"
    assert get(pushed, again, manifest_sha256=sha256_file(bundle / "manifest.json")) == pushed
    assert contents(again) == contents(bundle)


def test_the_layers(bundle: Path, registry: Registry) -> None:
    push(bundle, registry.reference("layers"))
    index = registry.image_manifest("layers")
    assert [part.get("annotations") for part in index["manifests"]] == [
        None,
        {TARGET: "ampere_plus", RUNTIME: "tensorrt_rtx 1.7.1"},
    ]
    without, found = (registry.image_manifest(part["digest"]) for part in index["manifests"])
    assert len(found["layers"]) - len(without["layers"]) == 2  # the plan and its manifest
    layers = {
        layer["annotations"]["org.opencontainers.image.title"]: layer for layer in found["layers"]
    }
    assert set(layers) == shared(bundle)
    assert layers["model.onnx"]["digest"] == layers["twice/model.onnx"]["digest"]
    assert layers[PLAN]["mediaType"] == "application/vnd.nvidia.tensorrt.plan"
    assert layers["tokenizer.json"]["mediaType"] == "application/json"
    assert found["artifactType"] == "application/vnd.sentence-transformer-trt.bundle.v1"
    assert found["annotations"][MANIFEST_SHA256] == sha256_file(bundle / "manifest.json")


def test_a_bundle_that_is_there_is_replaced(
    bundle: Path, registry: Registry, tmp_path: Path
) -> None:
    push(bundle, registry.reference())
    target = shutil.copytree(bundle, tmp_path / "target")
    (target / "old").write_text("of before")
    get(registry.reference(), target)
    assert contents(target) == contents(bundle)


def test_what_is_no_bundle_is_left_alone(bundle: Path, registry: Registry, tmp_path: Path) -> None:
    push(bundle, registry.reference())
    (tmp_path / "file").write_text("mine")
    (tmp_path / "directory").mkdir()
    (tmp_path / "web").mkdir()
    (tmp_path / "web" / "manifest.json").write_text('{"name": "a page of mine"}')
    for target in (tmp_path / "file", tmp_path / "directory", tmp_path / "web"):
        with pytest.raises(ShareError, match="there, and no bundle"):
            pull(registry.reference(), target)
    assert (tmp_path / "file").read_text() == "mine"
    assert (tmp_path / "directory").is_dir()
    assert (tmp_path / "web" / "manifest.json").is_file()


def test_a_link_goes_on_leading_to_the_bundle(
    bundle: Path, registry: Registry, tmp_path: Path
) -> None:
    push(bundle, registry.reference())
    target = shutil.copytree(bundle, tmp_path / "target")
    (target / "old").write_text("of before")
    current = tmp_path / "current"
    current.symlink_to("target")
    get(registry.reference(), current)
    assert current.is_symlink()
    assert contents(target) == contents(bundle)


def test_what_does_not_verify_is_not_pushed(bundle: Path, registry: Registry) -> None:
    flip(bundle / "model.onnx")
    with pytest.raises(BundleError, match=r"model\.onnx: sha256"):
        push(bundle, registry.reference("damaged"))
    with pytest.raises(ShareError, match="MANIFEST_UNKNOWN"):
        OciSource(registry.reference("damaged"))


def test_a_file_swapped_behind_the_check(
    bundle: Path, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The registry refuses other bytes than those that were verified, and no tag appears."""

    def verify_then_swap(path: Path) -> Verification:
        found = require_verified(path)
        flip(path / PLAN)
        return found

    (bundle / PLAN).write_bytes(b"a plan that the registry does not have yet")
    list_again(bundle / ENGINE, "model.plan")
    monkeypatch.setattr("pipeline.bundle.sharing.transfer.require_verified", verify_then_swap)
    with pytest.raises(ShareError, match="DIGEST_INVALID"):
        push(bundle, registry.reference("swapped"))
    with pytest.raises(ShareError, match="MANIFEST_UNKNOWN"):
        OciSource(registry.reference("swapped"))


# Engines.


@pytest.mark.slow
def test_a_puller_gets_its_own(
    bundle: Path, registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ada, hopper = add_engine(bundle, "sm_89"), add_engine(bundle, "sm_90")
    push(bundle, registry.reference("fleet"))
    index = registry.image_manifest("fleet")
    targets = [part["annotations"][TARGET] for part in index["manifests"][1:]]
    assert sorted(targets) == ["ampere_plus", "sm_89", "sm_90"]
    seen: list[str] = []

    def obstacle(_runtime: str, _version: str, target: str) -> str | None:
        seen.append(target)
        return None if target == "sm_90" else "another GPU"

    monkeypatch.setattr("pipeline.engines.tensorrt.obstacle", obstacle)
    target = tmp_path / "target"
    pull(registry.reference("fleet"), target)
    assert [path.name for path in (target / "engines").iterdir()] == [hopper]
    assert (target / "triton/tiny_encoder/1" / f"{hopper}.plan").is_file()
    assert sorted(seen) == ["ampere_plus", "sm_89", "sm_90"]
    require_verified(target)
    for wanted, names in (("none", set()), ([ada], {ada}), ("all", {ada, hopper})):
        pull(registry.reference("fleet"), target, engines=wanted)
        there = {path.name for path in target.glob("engines/tensorrt-*")}
        assert there == names
        require_verified(target)


@pytest.mark.slow
def test_some_engines_are_pushed(bundle: Path, registry: Registry, tmp_path: Path) -> None:
    ada = add_engine(bundle, "sm_89")
    push(bundle, registry.reference("some"), engines=[ada])
    get(registry.reference("some"), tmp_path / "some")
    assert [path.name for path in (tmp_path / "some" / "engines").iterdir()] == [ada]
    push(bundle, registry.reference("some"), engines="none")
    get(registry.reference("some"), tmp_path / "some")
    assert not (tmp_path / "some" / "engines").exists()
    with pytest.raises(ShareError, match="no engine x: it has"):
        push(bundle, registry.reference("some"), engines=["x"])
    with pytest.raises(ShareError, match="no engine x: it has none"):
        pull(registry.reference("some"), tmp_path / "other", engines=["x"])


# A registry that is not to be trusted.


def tampered(
    bundle: Path, registry: Registry, tag: str, tmp_path: Path, words: str, **more: Any
) -> None:
    """Pull and expect a refusal that leaves nothing."""
    target = tmp_path / "target"
    with pytest.raises(ShareError, match=words):
        get(registry.reference(tag), target, **more)
    assert not target.exists()
    assert list((tmp_path / ".staging").glob("*")) == []


@pytest.mark.slow
def test_a_blob_that_was_changed(bundle: Path, registry: Registry, tmp_path: Path) -> None:
    path = bundle / "report.html"
    path.write_text(path.read_text("utf-8") + "<!-- of this test alone -->", "utf-8")
    list_again(bundle, "report.html")
    bind_again(bundle)
    push(bundle, registry.reference("flipped"))
    flip(registry.blob(sha256_file(path)))
    words = r"oci://.*:flipped/report\.html: sha256 .*, the manifest says"
    tampered(bundle, registry, "flipped", tmp_path, words)
    with registry.blob(sha256_file(path)).open("ab") as blob:
        blob.write(b"more")
    tampered(bundle, registry, "flipped", tmp_path, "report.html is larger than")
    os.truncate(registry.blob(sha256_file(path)), 100)
    tampered(bundle, registry, "flipped", tmp_path, "report.html: 100 bytes")


def test_an_image_manifest_that_was_changed(
    bundle: Path, registry: Registry, tmp_path: Path
) -> None:
    pushed = push(bundle, registry.reference("edited"), engines="none")
    whole = registry.image_manifest("edited")

    def without(*titles: str) -> list[dict[str, Any]]:
        key = "org.opencontainers.image.title"
        return [layer for layer in whole["layers"] if layer["annotations"][key] not in titles]

    def renamed(title: str | None) -> list[dict[str, Any]]:
        layer = whole["layers"][1] | {"annotations": {"org.opencontainers.image.title": title}}
        return [*whole["layers"], layer]

    for layers, words in (
        (without("model.onnx"), r"no model\.onnx there"),
        (without("manifest.json"), "no layer manifest.json: no bundle"),
        (renamed("model.onnx"), "a layer with the title 'model.onnx': no bundle"),
        (renamed(None), "a layer with the title None: no bundle"),
        ([], "no layer manifest.json"),
    ):
        registry.put("edited", whole | {"layers": layers})
        tampered(bundle, registry, "edited", tmp_path, words)
    registry.put("edited", whole | {"layers": renamed("../outside")})  # which nobody asks for
    target = tmp_path / "target"
    pull(registry.reference("edited"), target)
    assert shared(target) == {name for name in shared(bundle) if not name.startswith(ENGINE)}
    assert pushed != OciSource(registry.reference("edited")).reference


def test_another_image_manifest_than_the_one_asked_for(bundle: Path, registry: Registry) -> None:
    """A digest says what comes back; a tag does not."""
    pushed = push(bundle, registry.reference("lying"))
    assert isinstance(pushed, OciReference)
    assert pushed.digest is not None
    blob = registry.blob(pushed.digest.removeprefix("sha256:"))
    honest = blob.read_bytes()
    blob.write_bytes(honest + b"\n")
    OciSource(registry.reference("lying"))
    with pytest.raises(ShareError, match="the registry sent a manifest of sha256:"):
        OciSource(pushed)
    blob.write_bytes(honest)  # other tests push the same bundle


def test_another_bundle_than_the_one_pinned(
    bundle: Path, registry: Registry, tmp_path: Path
) -> None:
    push(bundle, registry.reference("pinned"))
    words = rf"manifest\.json: sha256 .*, expected {'0' * 64}"
    tampered(bundle, registry, "pinned", tmp_path, words, manifest_sha256="0" * 64)


# The command line.


@pytest.mark.slow
def test_command_line(
    bundle: Path, registry: Registry, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["push", str(bundle), str(registry.reference("cli"))]) == 0
    pushed = capsys.readouterr().out.removeprefix("pushed ").strip()
    assert parse_reference(pushed)
    assert main(["pull", pushed, str(tmp_path / "target"), "--engines", "all"]) == 0
    assert contents(tmp_path / "target") == contents(bundle)


@pytest.mark.slow
def test_no_registry_there(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    reference = f"oci://127.0.0.1:{free_port()}/me/tiny:int8"
    assert main(["push", str(bundle), reference]) == 1
    assert main(["pull", reference, str(tmp_path / "target")]) == 1
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 2
    assert all("cannot be reached (ConnectionError)" in line for line in lines)
    assert not (tmp_path / "target").exists()
