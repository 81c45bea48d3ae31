"""verify: every way to tamper with a bundle is refused by name, by verify and by load."""

import json
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from bundles import ENGINE, PLAN, bind_again, flip, list_again, manifest_of, write_manifest

from pipeline.bundle.sharing.reference import HubReference
from pipeline.bundle.sharing.transfer import push
from pipeline.contracts import sha256_file
from pipeline.engines.gpu import Gpu
from pipeline.errors import BundleError, ShareError
from pipeline.runtime import load
from pipeline.verify import main

Tamper = Callable[[Path], None]


@pytest.fixture
def bundle(tiny_bundle: Path, tmp_path: Path) -> Path:
    """A copy of the tiny bundle, to tamper with."""
    return shutil.copytree(tiny_bundle, tmp_path / "bundle")


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """Verify, expect exit code 1, and return what was said on stderr."""
    assert main(arguments) == 1
    errors = capsys.readouterr().err
    assert all(line.startswith("error: ") for line in errors.splitlines())
    return errors


def test_verified(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(bundle)]) == 0
    printed = capsys.readouterr()
    assert printed.err == ""
    assert printed.out.endswith("verified\n")
    assert f"sha256 {sha256_file(bundle / 'manifest.json')}" in printed.out
    lines = printed.out.splitlines()
    steps = lines[lines.index("  lineage") + 1 :]
    assert [line.split()[0] for line in steps[:2]] == ["weights", "fp32"]
    assert f"  {PLAN}: not here: " in printed.out
    assert "  validation  passed\n" in printed.out


def test_not_validated(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Its files are those that were published, so it verifies; but it says so, and stays here."""
    edit_report(bundle, status="unvalidated")
    bind_again(bundle)
    assert main([str(bundle)]) == 0
    assert "  validation  unvalidated\n" in capsys.readouterr().out
    with pytest.raises(ShareError, match="unvalidated: publish it with validate=default"):
        push(bundle, HubReference(repo_id="me/tiny"))


def test_as_json(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(bundle), "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert data["verified"] is True
    assert data["problems"] == []
    assert data["files"] == len(manifest_of(bundle)["files"])
    assert [engine["file"] for engine in data["engines"]] == [PLAN]
    flip(bundle / PLAN)
    assert main([str(bundle), "--json"]) == 1
    data = json.loads(capsys.readouterr().out)
    assert data["verified"] is False
    assert [PLAN in problem for problem in data["problems"]] == [True]
    (bundle / "manifest.json").unlink()
    assert main([str(bundle), "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["verified"] is False


def test_pinned_manifest(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sha256 = sha256_file(bundle / "manifest.json")
    assert main([str(bundle), "--manifest-sha256", sha256]) == 0
    assert load(bundle, "onnxruntime", manifest_sha256=sha256).dimension == 32
    manifest = manifest_of(bundle)
    manifest["created"] = manifest["created"].replace("20", "19", 1)
    write_manifest(bundle, manifest)
    errors = refused(capsys, str(bundle))  # of the bundle itself, nothing contradicts that date
    assert [line.split(": ")[1].removeprefix(f"{bundle}/") for line in errors.splitlines()] == [
        f"{ENGINE}/manifest.json",
        "triton/manifest.json",
    ]
    assert "manifest.json: sha256" in refused(capsys, str(bundle), "--manifest-sha256", sha256)
    with pytest.raises(BundleError, match=rf"manifest\.json: sha256 .*, expected {sha256}"):
        load(bundle, manifest_sha256=sha256)


def test_all_that_is_wrong_is_named(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flip(bundle / "model.onnx")
    flip(bundle / "report.html")
    (bundle / "config.json").unlink()
    errors = refused(capsys, str(bundle)).splitlines()
    assert [line.split(": ")[1].rpartition("/")[2] for line in errors] == [
        "config.json",
        "model.onnx",
        "report.html",
    ]


@pytest.mark.parametrize(
    "arguments", [["nowhere"], [], ["--pin", "x"], ["a", "b"]], ids=["missing", "none", "no", "two"]
)
def test_wrong_arguments(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 1
    assert capsys.readouterr().err


# Tampering with files: refused by verify, and by load where it would open them.


def rename(bundle: Path, old: str, new: str) -> None:
    (bundle / new).parent.mkdir(exist_ok=True)
    (bundle / old).rename(bundle / new)


def swap(bundle: Path, one: str, other: str) -> None:
    rename(bundle, one, "aside")
    rename(bundle, other, one)
    rename(bundle, "aside", other)


def link_out(bundle: Path, name: str) -> None:
    """Move what a name stands for out of the bundle, and leave a link."""
    away = bundle.with_name("away")
    (bundle / name).rename(away)
    (bundle / name).symlink_to(away)


def link_inside(bundle: Path) -> None:
    rename(bundle, "model.onnx", "report.html")
    (bundle / "model.onnx").symlink_to("report.html")


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


@pytest.mark.many
@pytest.mark.parametrize(
    ("tamper", "named"),
    [
        (lambda b: flip(b / "model.onnx"), "model.onnx: sha256"),
        (lambda b: flip(b / "tokenizer.json"), "tokenizer.json: sha256"),
        (lambda b: swap(b, "model.onnx", "tokenizer.json"), "tokenizer.json: .* bytes"),
        (lambda b: (b / "model.onnx").unlink(), "model.onnx: missing"),
        (lambda b: (b / "tokenizer.json").unlink(), "tokenizer.json: missing"),
        (lambda b: link_out(b, "model.onnx"), "model.onnx: model.onnx is a symbolic link"),
        (lambda b: link_out(b, "tokenizer.json"), "tokenizer.json is a symbolic link"),
        (link_inside, "model.onnx is a symbolic link"),
        (lambda b: link_out(b, "manifest.json"), "manifest.json is a symbolic link"),
        (lambda b: cut(b / "model.onnx"), "model.onnx: .* bytes, the manifest says"),
        (lambda b: (b / "model.onnx").write_bytes(b""), "model.onnx: 0 bytes"),
        (lambda b: pipe(b / "model.onnx"), "model.onnx: not a regular file"),
        (lambda b: cut(b / "manifest.json"), "manifest.json: not JSON"),
        (lambda b: os.truncate(b / "manifest.json", 20 << 20), "manifest.json: larger than 16 MiB"),
    ],
)
def test_tampered_file(
    bundle: Path, tamper: Tamper, named: str, capsys: pytest.CaptureFixture[str]
) -> None:
    tamper(bundle)
    errors = refused(capsys, str(bundle))
    with pytest.raises(BundleError, match=f"{bundle.name}/.*{named}") as raised:
        load(bundle, "onnxruntime")
    assert str(raised.value) in errors


def pretend(monkeypatch: pytest.MonkeyPatch) -> None:
    """A GPU that the plan is for."""
    monkeypatch.setattr("pipeline.engines.tensorrt.obstacle", lambda *_: None)


@pytest.mark.many
@pytest.mark.parametrize("engine", ["auto", "tensorrt_rtx"])
@pytest.mark.parametrize(
    ("tamper", "named"),
    [
        (lambda b: flip(b / PLAN), r"\.plan: sha256"),
        (lambda b: cut(b / PLAN), r"\.plan: .* bytes"),
        (lambda b: (b / PLAN).unlink(), r"\.plan: missing"),
        (lambda b: link_out(b, PLAN), r"\.plan is a symbolic link"),
        (lambda b: link_out(b, "engines"), r"engines: a symbolic link"),
    ],
)
def test_tampered_plan(
    bundle: Path,
    tamper: Tamper,
    named: str,
    engine: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """It is refused where it would be opened, never deserialized, and not fallen back from."""
    pretend(monkeypatch)
    opened: list[Any] = []
    monkeypatch.setattr(
        "pipeline.engines.tensorrt.TensorRTEncoder", lambda *a, **k: opened.append(a)
    )
    tamper(bundle)
    with pytest.raises(BundleError, match=named):
        load(bundle, engine)
    assert opened == []
    assert "/engines" in refused(capsys, str(bundle))


def test_an_engine_for_another_version(
    bundle: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The one that was asked for is refused by name, with the command; auto takes another."""
    installed = ModuleType("tensorrt_rtx")
    installed.__dict__["__version__"] = "1.8.0"
    gpu = Gpu(name="NVIDIA L4", compute_capability=(8, 9), driver=None)
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", installed)
    monkeypatch.setattr("pipeline.engines.tensorrt.find_gpu", lambda: gpu)
    monkeypatch.setattr("pipeline.engines.tensorrt.is_installed", lambda _module: True)
    words = (
        "built for ampere_plus with TensorRT-RTX 1.7.1, this is sm_89 (NVIDIA L4) with "
        "TensorRT-RTX 1.8.0"
    )
    with pytest.raises(BundleError) as raised:
        load(bundle, "tensorrt_rtx")
    command = f"python -m pipeline.build {bundle} --runtime tensorrt_rtx"
    assert f"{PLAN}: {words}: build one with {command}" in str(raised.value)
    with caplog.at_level("INFO"):
        assert load(bundle).engine.name in ("onnxruntime", "openvino")
    assert f"not used: {PLAN}: {words}" in caplog.text


def test_the_plan_is_deserialized_from_the_bytes_that_were_hashed(
    bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pretend(monkeypatch)
    content = (bundle / PLAN).read_bytes()
    seen: list[bytes] = []

    def open_plan(path: Path, runtime: str, *, plan: bytes, kernels: Path | None) -> None:
        flip(bundle / PLAN)  # too late for whoever has read it
        seen.append(plan)

    monkeypatch.setattr("pipeline.engines.tensorrt.TensorRTEncoder", open_plan)
    with pytest.raises(BundleError, match=r"\.plan: sha256"):  # found when it is loaded anew
        load(bundle, "tensorrt_rtx")
    assert seen == [content]


@pytest.mark.slow
def test_a_file_replaced_after_its_check(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from pipeline.engines.onnxruntime import OnnxRuntimeEncoder

    def open_other(path: Path, **more: Any) -> OnnxRuntimeEncoder:
        shutil.copyfile(path, aside := path.with_name("aside"))
        aside.replace(path)  # the same bytes: only the file is another
        return OnnxRuntimeEncoder(path, **more)

    monkeypatch.setattr("pipeline.engines.onnxruntime.OnnxRuntimeEncoder", open_other)
    with pytest.raises(BundleError, match=r"model\.onnx: changed while it was opened"):
        load(bundle, "onnxruntime")


def test_bundle_reached_through_a_link(bundle: Path) -> None:
    """An operator's ``current -> int8`` is no trick: only what is in the bundle counts."""
    current = bundle.with_name("current")
    current.symlink_to(bundle)
    assert load(current, "onnxruntime").dimension == 32
    assert main([str(current)]) == 0


@pytest.mark.many
@pytest.mark.parametrize(
    ("add", "named"),
    [
        (lambda b: (b / "evil.py").write_text("x"), "evil.py: not in the manifest"),
        (lambda b: (b / "1_Pooling" / "evil").write_text("x"), "1_Pooling/evil: not in the"),
        (lambda b: (b / ".hidden").write_text("x"), ".hidden: not in the manifest"),
        (lambda b: (b / "more").symlink_to("/"), "more: a symbolic link"),
        (lambda b: (b / "more").symlink_to("nowhere"), "more: a symbolic link"),
        (lambda b: os.mkfifo(b / "more"), "more: not in the manifest"),
    ],
)
def test_extra_file(
    bundle: Path, add: Tamper, named: str, capsys: pytest.CaptureFixture[str]
) -> None:
    add(bundle)
    assert named in refused(capsys, str(bundle))
    assert load(bundle, "onnxruntime").dimension == 32  # it opens nothing that is not listed


# Tampering that the manifest was made to agree with: caught where it contradicts itself.


def other_graph(bundle: Path) -> None:
    flip(bundle / "model.onnx")
    list_again(bundle, "model.onnx")


def edit_report(bundle: Path, **changes: Any) -> None:
    path = bundle / "report.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    list_again(bundle, "report.json")


def edit_artifact(bundle: Path, **changes: Any) -> None:
    artifacts = json.loads((bundle / "report.json").read_text())["artifacts"]
    artifacts[0] |= changes
    edit_report(bundle, artifacts=artifacts)


def edit(bundle: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    manifest = manifest_of(bundle)
    change(manifest)
    write_manifest(bundle, manifest)


OTHER = "0" * 64


@pytest.mark.many
@pytest.mark.parametrize(
    ("tamper", "named"),
    [
        (other_graph, "model.onnx (sha256 "),
        (lambda b: edit(b, lambda m: m["lineage"].clear()), "does not begin with the weights"),
        (
            lambda b: edit(b, lambda m: m["lineage"][0].update(sha256=OTHER)),
            "begins with other weights",
        ),
        (
            lambda b: edit(b, lambda m: m["lineage"][1].update({"from": OTHER})),
            "fp32 graph was made from 000000000000…, which is not above it",
        ),
        (
            lambda b: edit(b, lambda m: m["model"]["weights"].update({"model.safetensors": OTHER})),
            "model.weights_sha256 is not that of the files",
        ),
        (lambda b: edit(b, lambda m: m["files"].pop("model.onnx")), "files has no model.onnx"),
        (lambda b: edit_report(b, model="other"), "report.json: model is 'other'"),
        (lambda b: edit_report(b, status="failed"), "report.json: status is 'failed'"),
        (lambda b: edit_artifact(b, bytes=1), "model.onnx has 1 bytes, by the manifest"),
        (lambda b: edit_artifact(b, file="x"), "onnxruntime: x is not in the manifest"),
        (lambda b: edit_report(b, source=[]), "report.json: not a report"),
        (lambda b: edit(b, lambda m: m["files"].pop("report.json")), "report.json: not in the"),
    ],
)
def test_contradiction(
    bundle: Path, tamper: Tamper, named: str, capsys: pytest.CaptureFixture[str]
) -> None:
    tamper(bundle)
    assert named in refused(capsys, str(bundle))
