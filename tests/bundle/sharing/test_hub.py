"""hub: a bundle to the hub and back, through huggingface_hub and a server on this machine."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from bundles import PLAN, add_engine, bind_again, flip, list_again
from fake_hub import Hub, go_online, serve

from pipeline.bundle.sharing.hub import HubSource
from pipeline.bundle.sharing.reference import HubReference
from pipeline.bundle.sharing.transfer import pull, push
from pipeline.contracts import sha256_file
from pipeline.errors import BundleError, ShareError
from pipeline.runtime import load
from pipeline.share import main

REFERENCE = HubReference(repo_id="me/tiny")
KEPT = ".gitattributes"
"""The hub's own file in every repository."""


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    """An empty hub that huggingface_hub talks to."""
    with serve() as found:
        go_online(monkeypatch)
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", found.url)
        template = found.url + "/{repo_id}/resolve/{revision}/{filename}"
        for module in ("constants", "file_download"):  # which one reads it depends on the version
            name = f"huggingface_hub.{module}.HUGGINGFACE_CO_URL_TEMPLATE"
            monkeypatch.setattr(name, template, raising=False)
        yield found


@pytest.fixture
def bundle(tiny_bundle: Path, tmp_path: Path) -> Path:
    """A copy of the tiny bundle."""
    return shutil.copytree(tiny_bundle, tmp_path / "bundle")


def contents(bundle: Path) -> dict[str, bytes]:
    return {
        path.relative_to(bundle).as_posix(): path.read_bytes()
        for path in bundle.rglob("*")
        if path.is_file()
    }


def shared(bundle: Path) -> dict[str, bytes]:
    """What is pushed: triton/ is made anew where it is pulled."""
    return {k: v for k, v in contents(bundle).items() if not k.startswith("triton/")}


@pytest.mark.slow
def test_there_and_back(bundle: Path, hub: Hub, tmp_path: Path) -> None:
    pushed = push(bundle, REFERENCE)
    assert hub.private == {"me/tiny": True}
    commit, files = hub.files("me/tiny", "main")
    assert pushed == HubReference(repo_id="me/tiny", revision=commit)
    assert {name: files[name] for name in files if name != KEPT} == shared(bundle)
    target = tmp_path / "models" / "tiny"
    assert pull(REFERENCE, target, engines="all") == pushed
    assert contents(target) == contents(bundle)
    assert load(target, "onnxruntime").dimension == 32


@pytest.mark.slow
def test_what_is_there_twice_is_fetched_once(
    bundle: Path, hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A copy without hard links comes back with them, as from a registry."""
    (bundle / "twice").mkdir()
    shutil.copy(bundle / "model.onnx", bundle / "twice" / "model.onnx")
    list_again(bundle, "twice/model.onnx")
    bind_again(bundle)
    push(bundle, REFERENCE)
    fetched: list[str] = []

    def fetch(source: HubSource, name: str, directory: Path, *, most: int) -> None:
        fetched.append(name)
        original(source, name, directory, most=most)

    original = HubSource.fetch
    monkeypatch.setattr(HubSource, "fetch", fetch)
    target = tmp_path / "target"
    pull(REFERENCE, target, engines="all")
    assert contents(target) == contents(bundle)
    assert (target / "twice" / "model.onnx").samefile(target / "model.onnx")
    assert "model.onnx" in fetched
    assert "twice/model.onnx" not in fetched


@pytest.mark.slow
def test_a_second_push_leaves_nothing_of_the_first(bundle: Path, hub: Hub, tmp_path: Path) -> None:
    first = push(bundle, REFERENCE)
    assert isinstance(first, HubReference)
    hub.commit("me/tiny", "main", hub.files("me/tiny", "main")[1] | {"old.bin": b"old"})
    push(bundle, REFERENCE)
    assert set(hub.files("me/tiny", "main")[1]) == {*shared(bundle), KEPT}
    pin = sha256_file(bundle / "manifest.json")
    pull(first, tmp_path / "first", manifest_sha256=pin, engines="all")
    assert contents(tmp_path / "first") == contents(bundle)


@pytest.mark.slow
def test_a_branch_of_a_public_repository(bundle: Path, hub: Hub, tmp_path: Path) -> None:
    reference = HubReference(repo_id="me/open", revision="int8")
    push(bundle, reference, private=False)
    assert hub.private == {"me/open": False}
    assert set(hub.files("me/open", "main")[1]) == {KEPT}
    pull(reference, tmp_path / "target", engines="all")
    assert contents(tmp_path / "target") == contents(bundle)


@pytest.mark.slow
def test_engines_that_stay(bundle: Path, hub: Hub, tmp_path: Path) -> None:
    ada = add_engine(bundle, "sm_89")
    (bundle / "engines" / ".build.lock").write_text("")
    push(bundle, REFERENCE, engines=[ada])
    names = hub.files("me/tiny", "main")[1]
    assert {name.split("/")[1] for name in names if name.startswith("engines/")} == {ada}
    pull(REFERENCE, tmp_path / "target")  # this machine runs none of them
    assert not any((tmp_path / "target" / "engines").glob("*"))
    pull(REFERENCE, tmp_path / "target", engines=[ada])
    assert (tmp_path / "target" / "engines" / ada / "model.plan").is_file()


def test_what_does_not_verify_is_not_pushed(bundle: Path, hub: Hub) -> None:
    flip(bundle / PLAN)
    with pytest.raises(BundleError, match=r"\.plan: sha256"):
        push(bundle, REFERENCE)
    assert hub.private == {}


@pytest.mark.many
@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("model.onnx", b"other", r"hf://me/tiny@main/model\.onnx: 5 bytes, the manifest says"),
        ("manifest.json", b"{}", r"hf://me/tiny@main/manifest\.json: lacks schema"),
        ("config.json", None, "404"),
    ],
)
def test_what_does_not_verify_does_not_appear(
    bundle: Path, hub: Hub, tmp_path: Path, name: str, content: bytes | None, words: str
) -> None:
    push(bundle, REFERENCE)
    files = {key: value for key, value in hub.files("me/tiny", "main")[1].items() if key != name}
    hub.commit("me/tiny", "main", files if content is None else files | {name: content})
    target = tmp_path / "target"
    with pytest.raises(ShareError, match=words):
        pull(REFERENCE, target)
    assert not target.exists()
    assert list((tmp_path / ".staging").iterdir()) == []


@pytest.mark.parametrize("refused", ["create", "commit"])
def test_refused(bundle: Path, hub: Hub, refused: str, capsys: pytest.CaptureFixture[str]) -> None:
    hub.refuse = {refused}
    before = contents(bundle)
    assert main(["push", str(bundle), "hf://me/tiny"]) == 1
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert "hf://me/tiny@main: 403" in errors[0]
    assert contents(bundle) == before


def test_nothing_there(hub: Hub, tmp_path: Path) -> None:
    with pytest.raises(ShareError, match="hf://me/nothing@main: 404"):
        pull(HubReference(repo_id="me/nothing"), tmp_path / "target")


def test_no_network(
    bundle: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    go_online(monkeypatch)
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    assert main(["push", str(bundle), "hf://me/tiny"]) == 1
    assert "error: hf://me/tiny@main: cannot be reached" in capsys.readouterr().err
    with pytest.raises(ShareError, match="cannot be reached"):
        HubSource(REFERENCE)
