"""engines/: what is of another bundle, or was changed, is refused by name."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bundles import ENGINE, PLAN, add_engine, flip, list_again, manifest_of, write_manifest

from pipeline.bundle.engines import open_parent, read_engine, read_engines
from pipeline.bundle.manifest import MANIFEST
from pipeline.bundle.verification import require_intact, verify_bundle
from pipeline.contracts import sha256_file
from pipeline.errors import BundleError
from pipeline.runtime import load
from pipeline.verify import main

Tamper = Callable[[Path], Any]
OTHER = "0" * 64


@pytest.fixture
def bundle(tiny_bundle: Path, tmp_path: Path) -> Path:
    """A copy of the tiny bundle, to tamper with."""
    return shutil.copytree(tiny_bundle, tmp_path / "bundle")


def edit(root: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    manifest = manifest_of(root)
    change(manifest)
    write_manifest(root, manifest)


def test_an_engine_names_its_bundle(bundle: Path) -> None:
    parent = open_parent(bundle)
    (engine,) = read_engines(parent)
    assert engine.file == PLAN
    assert engine.manifest["bundle"] == {
        "manifest_sha256": sha256_file(bundle / MANIFEST),
        "model": "tiny",
        "precision": "int8",
    }
    assert engine.manifest["graph"]["sha256"] == sha256_file(bundle / "tensorrt" / "model.onnx")
    assert engine.manifest["measured"] == {
        "executed": False,
        "reason": "no CUDA device on this machine",
    }
    assert not any(name.startswith(("engines/", "triton/")) for name in parent.manifest["files"])


def test_many_targets_live_side_by_side(bundle: Path) -> None:
    for target in ("sm_89", "sm_90"):
        add_engine(bundle, target)
    found = verify_bundle(bundle)
    assert found.problems == ()
    assert [engine.target for engine in found.engines] == ["sm_89", "sm_90", "ampere_plus"]


def of_another_bundle(bundle: Path) -> None:
    """As if the bundle had been published anew beside its old engines."""
    edit(bundle, lambda manifest: manifest.update(created="2027-01-01T00:00:00+00:00"))


def rename(bundle: Path) -> None:
    (bundle / ENGINE).rename(bundle / "engines" / "tensorrt_rtx-1.8.0-ampere_plus")


@pytest.mark.many
@pytest.mark.parametrize(
    ("tamper", "named"),
    [
        (of_another_bundle, "manifest.json: an engine of the bundle with manifest sha256 "),
        (
            lambda b: edit(b / ENGINE, lambda m: m["graph"].update(sha256=OTHER)),
            "manifest.json: built from another graph than tensorrt/model.onnx",
        ),
        (rename, "the engine of tensorrt_rtx-1.7.1-ampere_plus, in a directory named"),
        (lambda b: (b / ENGINE / MANIFEST).unlink(), "manifest.json: No such file"),
        (lambda b: (b / ENGINE / MANIFEST).write_text("{"), "manifest.json: not JSON"),
        (
            lambda b: edit(b / ENGINE, lambda m: m.update(runtime="os")),
            "runtime is 'os', expected one of tensorrt, tensorrt_rtx",
        ),
        (lambda b: edit(b / ENGINE, lambda m: m["files"].clear()), "files has no model.plan"),
        (
            lambda b: edit(b / ENGINE, lambda m: m.update(profiles=[{"min": [1]}])),
            "profiles[0].min is no batch and sequence",
        ),
        (lambda b: edit(b / ENGINE, lambda m: m.update(schema=2)), "schema 2, expected 1"),
    ],
)
def test_no_engine_of_this_bundle(
    bundle: Path, tamper: Tamper, named: str, capsys: pytest.CaptureFixture[str]
) -> None:
    tamper(bundle)
    assert main([str(bundle)]) == 1
    assert named in capsys.readouterr().err
    for wanted in ("auto", "tensorrt_rtx"):
        with pytest.raises(BundleError, match=r"engines/tensorrt_rtx-1\.\d") as raised:
            load(bundle, wanted)
        assert named in str(raised.value)
        assert "build it again with python -m pipeline.build" in str(raised.value)
    assert load(bundle, "onnxruntime").dimension == 32  # opens none of them


def foreign_plan(bundle: Path) -> None:
    """Put in place of the bundle's own, whatever it is of."""
    (bundle / PLAN).write_bytes(b"another plan")


@pytest.mark.parametrize("tamper", [foreign_plan, lambda b: flip(b / PLAN)])
def test_a_foreign_plan_is_never_opened(
    bundle: Path, tamper: Tamper, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[Any] = []
    monkeypatch.setattr("pipeline.engines.tensorrt.obstacle", lambda *_: None)
    encoder = "pipeline.engines.tensorrt.TensorRTEncoder"
    monkeypatch.setattr(encoder, lambda *arguments, **_: opened.append(arguments))
    tamper(bundle)
    with pytest.raises(BundleError, match=rf"{PLAN}: .* the manifest says"):
        load(bundle)
    assert opened == []


def test_what_else_lies_in_an_engine(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (bundle / ENGINE / "more").write_text("x")
    (bundle / "engines" / "stray").write_text("x")
    (bundle / "engines" / ".staging.lock").write_text("")  # a build at work
    assert main([str(bundle)]) == 1
    errors = capsys.readouterr().err.splitlines()
    assert len(errors) == 2
    assert "engines/stray" in errors[0]
    assert "more: not in the manifest" in errors[1]


def test_links_are_refused(bundle: Path) -> None:
    away = bundle.with_name("away")
    (bundle / ENGINE).rename(away)
    (bundle / ENGINE).symlink_to(away)
    with pytest.raises(BundleError, match="a symbolic link, which no bundle holds"):
        read_engine(bundle / ENGINE, open_parent(bundle))
    (problem,) = verify_bundle(bundle).problems
    assert "a symbolic link" in problem


def test_a_pinned_bundle_takes_pinned_engines_only(
    bundle: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Whoever may add a directory may name any bundle in it, and a plan is code."""
    opened: list[bytes] = []
    monkeypatch.setattr("pipeline.engines.tensorrt.obstacle", lambda *_: None)

    def open_plan(path: Path, runtime: str, *, plan: bytes, kernels: Path | None) -> Any:
        opened.append(plan)
        return type("Engine", (), {"name": runtime, "device": "cuda"})()

    monkeypatch.setattr("pipeline.engines.tensorrt.TensorRTEncoder", open_plan)
    pin, engine = sha256_file(bundle / MANIFEST), sha256_file(bundle / ENGINE / MANIFEST)
    with caplog.at_level("INFO"):
        assert load(bundle, manifest_sha256=pin).engine.name in ("onnxruntime", "openvino")
    assert f"not used: {PLAN}: the bundle is pinned and this engine is not" in caplog.text
    with pytest.raises(BundleError, match=rf"give engine_sha256=\['{engine}'\]"):
        load(bundle, "tensorrt_rtx", manifest_sha256=pin)
    assert opened == []
    assert load(bundle, manifest_sha256=pin, engine_sha256=[engine]).engine.name == "tensorrt_rtx"
    assert load(bundle).engine.name == "tensorrt_rtx"
    assert len(opened) == 2


class Wider:
    """A plan of another model under the right names."""

    device, max_tokens, bucketed, dimension = "cuda", None, True, 33

    def __init__(self, _path: Path, runtime: str, **_: Any) -> None:
        self.name = runtime

    def encode(self, _batch: Any) -> Any:
        raise AssertionError("a text was computed")


def test_a_plan_is_held_against_the_manifest_s_dimension(
    bundle: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whoever opens it says so in one line: load, ``auto`` too, and verify."""
    monkeypatch.setattr("pipeline.engines.tensorrt.obstacle", lambda *_: None)
    monkeypatch.setattr("pipeline.engines.tensorrt.TensorRTEncoder", Wider)
    words = (
        f"{bundle}: model.dimension is 32, the tensorrt_rtx plan gives 33; build the engine again "
        f"with python -m pipeline.build {bundle}, or publish the bundle again"
    )
    for wanted in ("auto", "tensorrt_rtx"):
        with pytest.raises(BundleError, match=f"^{re.escape(words)}$"):
            load(bundle, wanted)
    assert main([str(bundle), "--run"]) == 1
    assert capsys.readouterr().err == f"error: {words}\n"
    assert load(bundle, "onnxruntime").dimension == 32


@pytest.mark.parametrize("engine", ["auto", "tensorrt_rtx"])
def test_compiled_kernels_are_kept_where_load_is_told(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, engine: str
) -> None:
    """By bundle, machine, engine and plan; without a place nothing is written anywhere."""
    kept: list[Path | None] = []
    monkeypatch.setattr("pipeline.engines.tensorrt.obstacle", lambda *_: None)

    def open_plan(path: Path, runtime: str, *, plan: bytes, kernels: Path | None) -> Any:
        kept.append(kernels)
        return type("Engine", (), {"name": runtime, "device": "cuda"})()

    monkeypatch.setattr("pipeline.engines.tensorrt.TensorRTEncoder", open_plan)
    hows: list[dict[str, Any]] = [
        {},
        {"cache_dir": tmp_path},
        {"cache_dir": tmp_path, "build": True},
    ]
    for how in hows:
        assert load(bundle, engine, **how).engine.name == "tensorrt_rtx"
    assert kept[0] is None
    assert kept[1] is not None
    assert kept[1] == kept[2]
    sha256 = manifest_of(bundle / ENGINE)["files"]["model.plan"]["sha256"]
    assert kept[1].name == f"{Path(ENGINE).name}-{sha256[:16]}.kernels"
    assert kept[1].is_relative_to(tmp_path / "engines" / sha256_file(bundle / MANIFEST))


# The proof that travels.


def test_a_changed_check_vector(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flip(bundle / "check/vectors.npy")
    assert main([str(bundle), "--run"]) == 1
    printed = capsys.readouterr()
    assert "check/vectors.npy: sha256" in printed.err
    assert "passed" not in printed.out.replace("validation  passed", "")  # nothing was run
    with pytest.raises(BundleError, match=r"check/vectors\.npy: sha256"):
        load(bundle, "onnxruntime", check=True)
    assert load(bundle, "onnxruntime").dimension == 32


def turn_one(bundle: Path) -> None:
    path = bundle / "check/vectors.npy"
    vectors = np.load(path)
    vectors[-1] *= -1
    np.save(path, vectors)
    list_again(bundle, "check/vectors.npy")
    shutil.rmtree(bundle / "engines")
    shutil.rmtree(bundle / "triton")


@pytest.mark.slow
def test_vectors_that_are_not_the_models(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    turn_one(bundle)
    assert main([str(bundle), "--run"]) == 2
    printed = capsys.readouterr()
    assert "model.onnx in onnxruntime: cosine.mean 0.9" in printed.err
    assert "model.onnx in onnxruntime on cpu: failed" in printed.out
    with pytest.raises(BundleError, match=r"does not give the vectors .* cosine.mean .* word"):
        load(bundle, "onnxruntime", check=True)


@pytest.mark.slow
def test_every_engine_is_run_or_says_why_not(
    bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(bundle), "--run", "--json"]) == 0
    runs = {run["name"]: run for run in json.loads(capsys.readouterr().out)["runs"]}
    ran = runs["onnxruntime"]
    assert ran["executed"] is True
    assert ran["agreement"]["n"] == 48
    assert ran["agreement"]["cosine"]["mean"] > 0.99999
    assert {gate["name"]: gate["passed"] for gate in ran["gates"]} == {
        "cosine.mean": True,
        "cosine.p1": True,
        "invariance.batch": True,
        "invariance.padding": True,
        "vectors.finite": True,
        "vectors.nonzero": True,
    }
    assert runs["tensorrt_rtx"]["executed"] is False
    assert runs["tensorrt_rtx"]["file"] == PLAN
    assert runs["tensorrt_rtx"]["reason"]


def test_a_bundle_without_a_proof(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    edit(bundle, lambda manifest: manifest.update(check=None))
    shutil.rmtree(bundle / "engines")
    shutil.rmtree(bundle / "triton")
    assert main([str(bundle), "--run"]) == 1
    assert "no check texts in it: published with validate=off" in capsys.readouterr().err
    with pytest.raises(BundleError, match="no check texts in it"):
        load(bundle, "onnxruntime", check=True)


def test_a_build_needs_the_bundles_own_files_only(bundle: Path) -> None:
    """A stale engine is what a build is for."""
    foreign_plan(bundle)
    assert require_intact(bundle).manifest["model"]["name"] == "tiny"
    flip(bundle / "tensorrt/model.onnx")
    with pytest.raises(BundleError, match=r"tensorrt/model\.onnx: sha256"):
        require_intact(bundle)
