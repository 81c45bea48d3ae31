"""A bundle that a stranger packed: nothing in it hangs, crashes or leads out; verify names it."""

import io
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bundles import ENGINE, bind_again, list_again, manifest_of, write_manifest

from pipeline.bundle.arrays import read_array
from pipeline.bundle.engines import open_parent, read_engine
from pipeline.bundle.proof import TEXTS, VECTORS, read_proof
from pipeline.bundle.ranges import RANGES, read_ranges
from pipeline.bundle.sharing.hub import HubSource
from pipeline.bundle.sharing.reference import HubReference
from pipeline.bundle.sharing.transfer import push
from pipeline.bundle.signing import signature_problem
from pipeline.errors import BundleError, ShareError
from pipeline.flow.building import BuildOrder, _settings
from pipeline.report.published import read_report
from pipeline.verify import main

DEEP = b"[" * 100_000


@pytest.fixture
def bundle(tiny_bundle: Path, tmp_path: Path) -> Path:
    """A copy of the tiny bundle."""
    return shutil.copytree(tiny_bundle, tmp_path / "bundle")


def problems(bundle: Path, capsys: pytest.CaptureFixture[str], *options: str) -> list[str]:
    """Verify, and return the lines of what is wrong."""
    assert main([str(bundle), *options]) == 1
    lines = capsys.readouterr().err.splitlines()
    assert all(line.startswith("error: ") for line in lines)
    return lines


def put(bundle: Path, name: str, content: bytes) -> None:
    """Write a file that the manifest lists as it is."""
    (bundle / name).unlink()
    (bundle / name).write_bytes(content)
    list_again(bundle, name)
    bind_again(bundle)


def test_a_hub_that_states_no_size(tmp_path: Path) -> None:
    """What is to be downloaded is bounded by the manifest, or not downloaded."""
    source = HubSource.__new__(HubSource)
    source.reference = HubReference(repo_id="me/tiny")
    source._sizes = {"model.onnx": None}
    with pytest.raises(ShareError, match="of a size that is not stated there, 7 at most"):
        source.fetch("model.onnx", tmp_path, most=7)


# What is no file

ODD: dict[str, Callable[[Path], object]] = {
    "a pipe": os.mkfifo,
    "a link that leads out": lambda path: path.symlink_to("/etc/hostname"),
    "a link to itself": lambda path: path.symlink_to(path.name),
    "a directory": lambda path: path.mkdir(),
}


@pytest.mark.parametrize("kind", ODD)
def test_a_signature_that_is_no_file(
    kind: str, bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The manifest does not list it; a pipe is not waited for, nor what a link leads to shared."""
    ODD[kind](bundle / "model.sig")
    assert any("model.sig: " in line and "remove it" in line for line in problems(bundle, capsys))
    with pytest.raises(BundleError, match=r"model\.sig: "):
        push(bundle, HubReference(repo_id="me/tiny"))


@pytest.mark.parametrize("kind", ODD)
def test_a_signature_that_is_no_file_is_not_checked(kind: str, bundle: Path) -> None:
    pytest.importorskip("model_signing")
    pytest.importorskip("cryptography")
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    public = ec.generate_private_key(ec.SECP256R1()).public_key()
    key = bundle.parent / "key.pub"
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    key.write_bytes(public.public_bytes(serialization.Encoding.PEM, form))
    ODD[kind](bundle / "model.sig")
    assert "model.sig: " in str(signature_problem(bundle, key))


@pytest.mark.parametrize("kind", ODD)
@pytest.mark.parametrize("name", ["manifest.json", "tokenizer.json", "triton", "engines"])
def test_something_else_in_the_place_of_a_file(
    kind: str, name: str, bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = bundle / name
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    ODD[kind](path)
    if kind != "a directory" or "." in name:
        assert any(name in line for line in problems(bundle, capsys))


@pytest.mark.parametrize("place", ["extra", "check/extra", f"{ENGINE}/extra", "triton/extra"])
def test_something_more_that_is_no_file(
    place: str, bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    os.mkfifo(bundle / place)
    assert any(f"{place}: not in the manifest" in line for line in problems(bundle, capsys))


def test_a_second_name_of_a_file_is_a_file(bundle: Path, tmp_path: Path) -> None:
    content = (bundle / "tokenizer.json").read_bytes()
    (bundle / "tokenizer.json").unlink()
    (tmp_path / "elsewhere").write_bytes(content)
    os.link(tmp_path / "elsewhere", bundle / "tokenizer.json")
    assert main([str(bundle)]) == 0


def test_names_that_differ_in_case_are_two_files(bundle: Path) -> None:
    (bundle / "TOKENIZER.json").write_bytes(b"{}")
    manifest = manifest_of(bundle)
    manifest["files"]["TOKENIZER.json"] = manifest["files"]["tokenizer.json"]
    write_manifest(bundle, manifest)
    list_again(bundle, "TOKENIZER.json")
    bind_again(bundle)
    assert main([str(bundle)]) == 0


# JSON


@pytest.mark.parametrize(
    "content", [DEEP, b'{"a":' * 100_000, b"\xff", b"9" * 5000, b"[]"], ids=range(5)
)
def test_a_report_that_is_none(
    content: bytes, bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    put(bundle, "report.json", content)
    (line,) = problems(bundle, capsys)
    assert "report.json: not a report" in line
    with pytest.raises(BundleError, match=r"report\.json: not"):
        read_report(bundle)


@pytest.mark.parametrize(
    "name", ["manifest.json", f"{ENGINE}/manifest.json", "triton/manifest.json"]
)
def test_a_manifest_without_end(
    name: str, bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (bundle / name).write_bytes(DEEP)
    assert any("not JSON" in line for line in problems(bundle, capsys))


# What goes into another program's configuration


@pytest.mark.parametrize(
    ("change", "seen"),
    [
        ({"runtime": "tensorrt", "target": "sm_"}, "target is 'sm_', expected sm_ and"),
        ({"runtime": "tensorrt", "target": "ampere_plus"}, "target is 'ampere_plus'"),
        ({"target": 'x"\n backend: "python'}, "expected letters, digits and"),
        ({"runtime_version": "1.7\n1"}, "expected letters, digits and"),
        ({"runtime_version": ""}, None),
    ],
)
def test_an_engine_s_name_is_a_word(change: dict[str, str], seen: str | None, bundle: Path) -> None:
    manifest = manifest_of(bundle / ENGINE) | change
    name = "-".join(manifest[key] for key in ("runtime", "runtime_version", "target"))
    moved = (bundle / ENGINE).rename(bundle / "engines" / name)
    write_manifest(moved, manifest)
    if seen is None:
        read_engine(moved, open_parent(bundle))
        return
    with pytest.raises(BundleError) as caught:
        read_engine(moved, open_parent(bundle))
    assert seen in str(caught.value)


# Settings of whoever published


def settings_of(bundle: Path, engine: dict[str, Any]) -> Any:
    manifest = manifest_of(bundle)
    manifest["config"] = {"engine": engine}
    write_manifest(bundle, manifest)
    return _settings(open_parent(bundle), BuildOrder(settings={}))


def test_a_place_on_the_publisher_s_machine_is_not_written_to(bundle: Path) -> None:
    found = settings_of(bundle, {"timing_cache": "/home/me/.ssh", "max_batch": 8, "unknown": 1})
    assert (found.timing_cache, found.max_batch) == (None, 8)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("max_batch", "64"),
        ("max_batch", None),
        ("workspace_mib", True),
        ("optimization_level", [3]),
        ("sequence_buckets", 32),
        ("sequence_buckets", [32, "64"]),
        ("version_compatible", 1),
    ],
)
def test_a_setting_of_another_type_is_named(key: str, value: object, bundle: Path) -> None:
    with pytest.raises(BundleError, match=rf"config\.engine\.{key} is"):
        settings_of(bundle, {key: value})


# Arrays


def npy(header: str, content: bytes = b"") -> bytes:
    padded = header.encode("latin-1") + b"\n"
    return b"\x93NUMPY\x01\x00" + len(padded).to_bytes(2, "little") + padded + content


def header(shape: str, descr: str = "<f4") -> str:
    return f"{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}}}"


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x93NUMPY",
        b"\x93NUMPY\x09\x00",
        npy(header("(1000000000, 1000000)")),
        npy(header("(2, 3)", "<f8"), bytes(48)),
        npy(header("(2, 3)", "|O"), bytes(48)),
        npy(header("(2, 3)"), bytes(23)),
        npy(header("(-2, -3)"), bytes(24)),
        npy("-" * 9000 + "1"),
        npy("(" * 9000),
        npy(header("(" + "-" * 5000 + "2, 3)"), bytes(24)),
    ],
    ids=range(11),
)
def test_an_array_that_is_none(content: bytes) -> None:
    with pytest.raises(ValueError, match=r".+"):
        read_array(content, (2, 3))


def test_an_array_in_either_order() -> None:
    values = np.arange(6, dtype=np.float32).reshape(2, 3)
    for array in (values, np.asfortranarray(values)):
        stream = io.BytesIO()
        np.save(stream, array)
        assert (read_array(stream.getvalue(), (2, 3)) == values).all()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        (TEXTS, DEEP),
        (TEXTS, b'["\\ud800"]'),
        (TEXTS, b"[1, 2]"),
        (TEXTS, b'"abc"'),
        (VECTORS, npy(header("(1000000000, 1000000)"))),
        (RANGES, npy(header("(1000000000, 1000000)"))),
    ],
    ids=range(6),
)
def test_a_proof_or_ranges_that_are_none(name: str, content: bytes, bundle: Path) -> None:
    put(bundle, name, content)
    parent = open_parent(bundle)
    read = read_ranges if name == RANGES else read_proof
    with pytest.raises(BundleError, match="publish the bundle again"):
        read(parent.checker, parent.manifest)
