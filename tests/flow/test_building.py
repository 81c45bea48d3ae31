"""build: an engine is added to a bundle that was published, where PyTorch is not installed."""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bundles import ENGINE, bind_again, flip, list_again

import pipeline
from pipeline.build import main
from pipeline.bundle.engines import EngineDirectory, open_parent, read_engines
from pipeline.bundle.manifest import MANIFEST
from pipeline.bundle.verification import verify_bundle
from pipeline.config import EngineChoice
from pipeline.contracts import Engine, OnnxModel, sha256_file
from pipeline.engines.gpu import find_gpu, is_installed
from pipeline.engines.onnxruntime import OnnxRuntimeEncoder
from pipeline.errors import BuildError
from pipeline.flow import building
from pipeline.flow.building import BuildOrder, GateError, build_engines
from pipeline.runtime import load
from pipeline.runtime.building import start_build

needs_rtx = pytest.mark.skipif(
    not is_installed("tensorrt_rtx"), reason="tensorrt_rtx is not installed"
)
ABSENT = (
    "torch",
    "transformers",
    "sentence_transformers",
    "optimum",
    "safetensors",
    "onnx",
    "onnx_ir",
    "hydra",
    "omegaconf",
    "scipy",
    "cattrs",
    "jinja2",
    "matplotlib",
)
"""What a machine that serves does without."""


@pytest.fixture
def bundle(tiny_bundle: Path, tmp_path: Path) -> Path:
    """A copy of the tiny bundle without an engine."""
    copy = shutil.copytree(tiny_bundle, tmp_path / "bundle")
    shutil.rmtree(copy / "engines")
    return copy


@pytest.fixture
def serving(tmp_path: Path) -> dict[str, str]:
    """The environment of a process, and of its children, that has none of ``ABSENT``."""
    site = tmp_path / "site"
    site.mkdir()
    (site / "sitecustomize.py").write_text(
        f"""
import importlib.abc, sys

class Absent(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {ABSENT}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name.partition(".")[0])

sys.meta_path.insert(0, Absent())
"""
    )
    here = str(Path(pipeline.__file__).parent.parent)
    return os.environ | {"PYTHONPATH": os.pathsep.join([str(site), here])}


def run(serving: dict[str, str], *arguments: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", *arguments]
    return subprocess.run(command, env=serving, capture_output=True, text=True, check=False)


def own_files(bundle: Path) -> dict[str, str]:
    manifest = json.loads((bundle / MANIFEST).read_text("utf-8"))
    return {name: sha256_file(bundle / name) for name in (MANIFEST, *manifest["files"])}


@needs_rtx
@pytest.mark.slow
def test_without_pytorch(bundle: Path, serving: dict[str, str]) -> None:
    """A real plan, the proof run, and nothing of what was published touched."""
    assert "No module named" in run(serving, "torch").stderr
    before = own_files(bundle)
    done = run(serving, "pipeline.build", str(bundle))
    assert done.returncode == 0, done.stderr
    assert "triton/ is as it was: Python package jinja2 is not installed" in done.stderr
    assert own_files(bundle) == before
    (engine,) = read_engines(open_parent(bundle))
    assert engine.runtime == "tensorrt_rtx"
    assert (engine.root / "model.plan").stat().st_size > 100_000
    assert [profile.max for profile in engine.profiles] == [(64, 32), (64, 48)]
    done = run(serving, "pipeline.verify", str(bundle), "--run")
    assert done.returncode == 0, done.stderr
    assert "model.onnx in onnxruntime on cpu: passed, mean cosine 1.0" in done.stdout
    if find_gpu() is None:
        assert engine.manifest["measured"]["executed"] is False
        assert f"{engine.file} in tensorrt_rtx: not run: no CUDA device" in done.stdout
    code = f"from pipeline.runtime import load; print(load({str(bundle)!r}, check=True).dimension)"
    done = subprocess.run(
        [sys.executable, "-c", code], env=serving, capture_output=True, text=True, check=False
    )
    assert done.stdout == "32\n", done.stderr


@needs_rtx
@pytest.mark.slow
def test_the_bundles_settings_and_others(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [str(bundle), "--max-batch", "8", "--opt-batch", "4", "--sequence-buckets", "16,48"]
    assert main(arguments) == 0
    (engine,) = read_engines(open_parent(bundle))
    assert [profile.max for profile in engine.profiles] == [(8, 16), (8, 48)]
    assert engine.manifest["settings"]["max_batch"] == 8
    assert (engine.root / "layers.json").is_file()
    assert engine.manifest_sha256 in capsys.readouterr().out
    found = verify_bundle(bundle)
    assert found.problems == ()
    assert [each.file for each in found.engines] == [engine.file]


@needs_rtx
@pytest.mark.slow
def test_two_processes_one_builds_both_serve(
    bundle: Path, tmp_path: Path, serving: dict[str, str]
) -> None:
    cache = tmp_path / "cache"
    code = f"""
import logging, time
logging.basicConfig(level=logging.INFO)
from pipeline.runtime import load
encoder = load({str(bundle)!r}, build=True, cache_dir={str(cache)!r})
print(encoder.engine.name, encoder.encode(["a text"]).shape, flush=True)
time.sleep(1)
"""
    both = [
        subprocess.Popen(
            [sys.executable, "-c", code],
            env=serving,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    for process in both:
        out, err = process.communicate(timeout=300)
        assert out in ("onnxruntime (1, 32)\n", "openvino (1, 32)\n"), err
        assert "no engine fits this machine: building one into" in err
    plan = wait_for(cache, "engines/*/*/tensorrt*/model.plan")
    log = next(cache.glob("**/build.log"))
    # The other one meets it at work, or comes when it is done.
    others = ("another process is building", "nothing added")
    wait_until(lambda: any(words in log.read_text() for words in others))
    wait_until(lambda: "  plan " in log.read_text())
    assert log.read_text().count("  plan ") == 1
    built = plan.stat().st_mtime_ns
    assert load(bundle, build="wait", cache_dir=cache).dimension == 32
    assert plan.stat().st_mtime_ns == built  # the next start takes what is there


@pytest.mark.parametrize(
    ("code", "engine", "words"),
    [
        (0, True, "holds an engine for the next load"),
        (0, False, "another process is building into"),
        (1, False, "no engine was built (exit code 1): see"),
    ],
)
def test_what_became_of_a_build_is_said(
    tiny_bundle: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    code: int,
    engine: bool,
    words: str,
) -> None:
    """One that found another process at work ends at once and well, and there is nothing yet."""
    caplog.set_level("INFO", logger="pipeline")
    cache = tmp_path / "cache"
    if engine:
        (cache / "tensorrt_rtx-1.7.1-ampere_plus").mkdir(parents=True)
    command = [sys.executable, "-c", f"raise SystemExit({code})"]
    popen = subprocess.Popen
    monkeypatch.setattr(subprocess, "Popen", lambda _, **how: popen(command, **how))
    start_build(open_parent(tiny_bundle), cache, "auto", wait=True)
    assert [words in record.message for record in caplog.records] == [False, True]


def wait_for(directory: Path, pattern: str) -> Path:
    wait_until(lambda: bool(list(directory.glob(pattern))))
    return next(directory.glob(pattern))


def wait_until(done: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 300
    while not done():
        assert time.monotonic() < deadline
        time.sleep(0.2)


# A build that stands in for TensorRT's: a plan is the fp32 graph, and ONNX Runtime runs it.


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> None:
    def plan_build(config: Any, *, max_length: int, target: str | None) -> Any:
        from pipeline.stages.build import BuildPlan, make_profiles

        profiles = make_profiles(config, max_length=max_length)
        return BuildPlan(runtimes=("tensorrt",), not_built=(), profiles=profiles)

    def build(
        model: OnnxModel,
        runtime: str,
        profiles: Any,
        config: Any,
        cache: Path,
        out: Path,
        *,
        target: str | None,
    ) -> Engine:
        out.mkdir()
        plan = shutil.copyfile(model.path, out / "x.plan")
        return Engine(
            path=plan,
            sha256=sha256_file(plan),
            runtime=runtime,
            runtime_version="11.2.1",
            target=target or "sm_89",
            profiles=tuple(profiles),
            inputs=model.inputs,
            outputs=model.outputs,
            layer_types={},
            source_sha256=model.sha256,
        )

    def opened(_runtime: str, path: Path, _kind: Any) -> OnnxRuntimeEncoder:
        return OnnxRuntimeEncoder(path)

    monkeypatch.setattr(building, "plan_build", plan_build)
    monkeypatch.setattr(building, "build", build)
    monkeypatch.setattr(building, "obstacle", lambda *_: None)
    monkeypatch.setattr(building, "open_encoder", opened)


def order(**more: Any) -> BuildOrder:
    return BuildOrder(runtime=EngineChoice.tensorrt, settings={}, **more)


def added(bundle: Path, **more: Any) -> EngineDirectory:
    (done,) = build_engines(open_parent(bundle), order(**more))
    return done.engine


def test_the_proof_is_run_before_an_engine_is_added(bundle: Path, stand_in: None) -> None:
    engine = added(bundle)
    measured = engine.manifest["measured"]
    assert measured["executed"] is True
    assert measured["agreement"]["n"] == 48
    assert measured["agreement"]["cosine"]["min"] > 0.99999
    assert all(gate["passed"] for gate in measured["gates"])
    assert verify_bundle(bundle).problems == ()
    encoder = bundle / "triton/tiny_encoder"
    assert 'value: "tensorrt-11.2.1-sm_89.plan"' in (encoder / "config.pbtxt").read_text()
    assert (encoder / "1/tensorrt-11.2.1-sm_89.plan").samefile(engine.root / "model.plan")


@pytest.mark.slow
def test_vectors_that_are_not_the_models(
    bundle: Path, stand_in: None, capsys: pytest.CaptureFixture[str]
) -> None:
    vectors = np.load(bundle / "check/vectors.npy")
    np.save(bundle / "check/vectors.npy", np.roll(vectors, 1, axis=0))
    list_again(bundle, "check/vectors.npy")
    bind_again(bundle)
    with pytest.raises(GateError, match=r"cosine\.mean .* < 0\.99999.*it was not put in place"):
        added(bundle)
    assert main([str(bundle)]) == 2
    assert "does not give the vectors that were published" in capsys.readouterr().err
    assert list(bundle.glob("engines/[!.]*")) == []
    assert list((bundle / "engines" / ".staging").iterdir()) == []


@pytest.mark.slow
def test_an_engine_of_its_name_is_replaced(bundle: Path, stand_in: None) -> None:
    first = added(bundle)
    (first.root / "model.plan").write_bytes(b"damaged")
    assert added(bundle).root == first.root
    assert verify_bundle(bundle).problems == ()


@pytest.mark.slow
def test_signed_by_the_builder(bundle: Path, stand_in: None, tmp_path: Path) -> None:
    pytest.importorskip("model_signing")
    from pipeline.bundle.signing import signature_problem

    for command in (
        ["ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", "key.pem"],
        ["ec", "-in", "key.pem", "-pubout", "-out", "key.pub"],
    ):
        subprocess.run(["openssl", *command], cwd=tmp_path, check=True, capture_output=True)
    engine = added(bundle, key=tmp_path / "key.pem")
    assert signature_problem(engine.root, tmp_path / "key.pub") is None
    assert not (bundle / "model.sig").exists()


@pytest.mark.slow
def test_elsewhere(bundle: Path, stand_in: None, tmp_path: Path) -> None:
    """A bundle that is read only serves from a cache."""
    before = own_files(bundle)
    triton = sha256_file(bundle / "triton" / MANIFEST)
    engine = added(bundle, into=tmp_path / "cache")
    assert engine.root.parent == tmp_path / "cache"
    assert not (bundle / "engines").exists()
    assert (own_files(bundle), sha256_file(bundle / "triton" / MANIFEST)) == (before, triton)


def test_what_was_changed_is_not_built_from(
    bundle: Path, stand_in: None, capsys: pytest.CaptureFixture[str]
) -> None:
    flip(bundle / "tensorrt/model.onnx")
    assert main([str(bundle)]) == 1
    assert "tensorrt/model.onnx: sha256" in capsys.readouterr().err
    assert not (bundle / ENGINE).exists()


def test_nothing_can_be_built(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.stages.build.is_installed", lambda _module: False)
    with pytest.raises(BuildError, match=r"can be built here: tensorrt: .* not installed"):
        build_engines(open_parent(bundle), BuildOrder(settings={}))
    with pytest.raises(BuildError, match="tensorrt is not installed"):
        added(bundle)


@pytest.mark.parametrize(
    "arguments", [[], ["nowhere"], ["x", "--runtime", "onnxruntime"], ["x", "--target", "8.9"]]
)
def test_wrong_arguments(arguments: list[str]) -> None:
    assert main(arguments) == 1


def test_another_process_is_at_it(
    bundle: Path, stand_in: None, capsys: pytest.CaptureFixture[str]
) -> None:
    from filelock import FileLock

    (bundle / "engines").mkdir()
    ada = [str(bundle), "--target", "sm_89"]
    with FileLock(bundle / "engines" / ".build-sm_89.lock"):
        assert main(ada) == 1
        assert "another process is building into" in capsys.readouterr().err
        assert main([*ada, "--if-missing"]) == 0
        assert list(bundle.glob("engines/[!.]*")) == []
        assert main([str(bundle), "--target", "sm_90"]) == 0  # for another GPU at the same time
    assert [path.name for path in bundle.glob("engines/[!.]*")] == ["tensorrt-11.2.1-sm_90"]
