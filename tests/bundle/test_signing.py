"""signing: who published a bundle, by a key; what was changed since, by name."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from bundles import ENGINE, add_engine, flip, list_again, publish_tiny

from pipeline.bundle.signing import check_key, sign_bundle, signature_problem
from pipeline.contracts import OnnxModel, SourceModel
from pipeline.errors import BundleError, PublishError
from pipeline.runtime import load
from pipeline.verify import main

pytest.importorskip("model_signing")


def write_pair(path: Path, curve: str = "SECP256R1", password: bytes | None = None) -> Path:
    """Write a new private key as ``path`` and its public half beside it; curve RSA is none."""
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec, rsa

    key: Any = (
        rsa.generate_private_key(65537, 2048)
        if curve == "RSA"
        else ec.generate_private_key(getattr(ec, curve)())
    )
    lock: Any = (
        serialization.NoEncryption()
        if password is None
        else serialization.BestAvailableEncryption(password)
    )
    pem, form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    path.write_bytes(key.private_bytes(pem, form, lock))
    public = key.public_key().public_bytes(pem, serialization.PublicFormat.SubjectPublicKeyInfo)
    path.with_suffix(".pub").write_bytes(public)
    return path


@pytest.fixture(scope="module")
def key(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A private key; its public half is beside it."""
    return write_pair(tmp_path_factory.mktemp("k") / "k.pem")


@pytest.fixture(scope="module")
def signed_bundle(
    key: Path,
    tiny_source: SourceModel,
    tiny_fp32: OnnxModel,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """A bundle that was published signed."""
    root = tmp_path_factory.mktemp("signed")
    return publish_tiny(tiny_source, tiny_fp32, root / "work", root / "tiny" / "fp32", key=key)


@pytest.fixture
def signed(signed_bundle: Path, tmp_path: Path) -> Path:
    """A copy of it under another name, which is no change."""
    return shutil.copytree(signed_bundle, tmp_path / "renamed")


def test_signed(signed: Path, key: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(signed), "--public-key", str(key.with_suffix(".pub"))]) == 0
    assert "signature   by the key of" in capsys.readouterr().out
    assert main([str(signed)]) == 0
    assert "signature   there, not checked: give --public-key" in capsys.readouterr().out
    assert load(signed, "onnxruntime").dimension == 32


def test_a_relative_path(signed: Path, key: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(signed.parent)
    assert signature_problem(Path(signed.name), key.with_suffix(".pub")) is None
    monkeypatch.chdir(signed)
    assert signature_problem(Path(), key.with_suffix(".pub")) is None


@pytest.mark.slow
def test_its_own_command_reads_the_signature(signed: Path, key: Path) -> None:
    arguments = [
        "--signature",
        str(signed / "model.sig"),
        "--public_key",
        str(key.with_suffix(".pub")),
    ]
    subprocess.run(
        [sys.executable, "-m", "model_signing", "verify", "key", str(signed), *arguments],
        check=True,
        capture_output=True,
    )


def test_engines_are_signed_apart(
    signed: Path, key: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One that was added later leaves the bundle's signature as it is."""
    public = str(key.with_suffix(".pub"))
    ada = signed / "engines" / add_engine(signed, "sm_89")
    assert signature_problem(signed, key.with_suffix(".pub")) is None
    assert main([str(signed), "--public-key", public]) == 1
    errors = capsys.readouterr().err  # bound anew, neither is what was signed
    assert f"{ada}/model.sig: not the signature" in errors
    assert f"{signed / ENGINE}/model.sig: not the signature" in errors
    (ada / "model.sig").unlink()
    assert main([str(signed), "--public-key", public]) == 1
    assert f"{ada}/model.sig: missing" in capsys.readouterr().err
    for engine in (ada, signed / ENGINE):
        (engine / "model.sig").unlink(missing_ok=True)
        sign_bundle(engine, key)
    assert main([str(signed), "--public-key", public]) == 0
    other = write_pair(tmp_path / "builder.pem")
    for engine in (ada, signed / ENGINE):
        (engine / "model.sig").unlink()
        sign_bundle(engine, other)
    assert main([str(signed), "--public-key", public]) == 1
    builder = str(other.with_suffix(".pub"))
    assert main([str(signed), "--public-key", public, "--engine-key", builder]) == 0


def edit_manifest(bundle: Path) -> None:
    """Change what no other check can know."""
    path = bundle / "manifest.json"
    path.write_text(path.read_text().replace('"created": "20', '"created": "19'))


def edit_page(bundle: Path) -> None:
    flip(bundle / "report.html")
    list_again(bundle, "report.html")


@pytest.mark.parametrize(
    ("tamper", "named"),
    [
        (edit_manifest, "manifest.json"),
        (edit_page, "report.html"),
        (lambda b: flip(b / "model.onnx"), "model.onnx"),
        (lambda b: (b / ".gitignore").write_text("x"), ".gitignore"),
        (lambda b: (b / "model.sig").unlink(), "model.sig: missing: the bundle is not signed"),
        (lambda b: (b / "model.sig").write_text("{}"), "model.sig: not the signature"),
        (lambda b: (b / "model.sig").write_text("no"), "model.sig: not the signature"),
        (lambda b: (b / "model.sig").write_bytes(b"\xff\xfe"), "model.sig: not the signature"),
    ],
)
def test_tampered(
    signed: Path, key: Path, tamper: object, named: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert callable(tamper)
    tamper(signed)
    assert main([str(signed), "--public-key", str(key.with_suffix(".pub"))]) == 1
    lines = capsys.readouterr().err.splitlines()
    assert any("model.sig" in line and named in line for line in lines)


def test_the_key_of_somebody_else(signed: Path, tmp_path: Path) -> None:
    other = write_pair(tmp_path / "other.pem")
    problem = signature_problem(signed, other.with_suffix(".pub"))
    assert problem is not None
    assert "not the signature of this bundle by" in problem


def test_a_signature_over_other_files(signed: Path, key: Path, tmp_path: Path) -> None:
    """Of the right key, but taken from another bundle."""
    other = tmp_path / "other"
    other.mkdir()
    (other / "manifest.json").write_text("{}")
    sign_bundle(other, key)
    shutil.copyfile(other / "model.sig", signed / "model.sig")
    problem = signature_problem(signed, key.with_suffix(".pub"))
    assert problem is not None
    assert "Extra files found" in problem


@pytest.mark.parametrize("password", ["right", "wrong", None])
def test_a_key_with_a_password(
    password: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    locked = write_pair(tmp_path / "k.pem", "SECP384R1", b"right")
    monkeypatch.delenv("SIGNING_KEY_PASSWORD", raising=False)
    if password is not None:
        monkeypatch.setenv("SIGNING_KEY_PASSWORD", password)
    if password == "right":
        check_key(locked)
        return
    with pytest.raises(PublishError, match=r"publish\.signing\.key=.*SIGNING_KEY_PASSWORD"):
        check_key(locked)


def test_keys_that_are_none(signed: Path, tmp_path: Path) -> None:
    rsa_key = write_pair(tmp_path / "rsa.pem", "RSA")
    text = tmp_path / "text.pem"
    text.write_text("no key")
    for path in (rsa_key, text, tmp_path / "missing.pem", tmp_path):
        with pytest.raises(PublishError, match=r"publish\.signing\.key=.*not a private key"):
            check_key(path)
        with pytest.raises(BundleError, match="not a public key"):
            signature_problem(signed, path.with_suffix(".pub") if path != tmp_path else path)


def test_without_the_library(
    signed: Path, key: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("model_signing", "model_signing.signing", "model_signing.verifying"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(PublishError, match=r"model-signing is not installed \(extra: signing\)"):
        check_key(key)
    assert main([str(signed), "--public-key", str(key.with_suffix(".pub"))]) == 1
    assert "model-signing is not installed" in capsys.readouterr().err


def test_the_private_key_is_nowhere_in_the_bundle(signed_bundle: Path, key: Path) -> None:
    secret = key.read_text().splitlines()[1]
    files = [path for path in signed_bundle.rglob("*") if path.is_file()]
    assert all(secret.encode() not in path.read_bytes() for path in files)
    assert (
        json.loads((signed_bundle / "manifest.json").read_text())["files"].get("model.sig") is None
    )
