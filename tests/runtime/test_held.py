"""A bundle's name that leads elsewhere while it is loaded: what was pinned is what runs."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from pipeline.bundle.checker import ChangedError, Checker
from pipeline.bundle.held import HeldDirectory
from pipeline.contracts import sha256_file
from pipeline.errors import BundleError
from pipeline.runtime import load
from pipeline.vectors import FloatArray

TEXTS = ["a sentence", "another one, longer"]


class Link:
    """``current``, a link to one of two bundles that differ in their weights and tokenizers."""

    def __init__(self, directory: Path, bundle: Path) -> None:
        self.path, self.good, self.evil = (directory / n for n in ("current", "good", "evil"))
        shutil.copytree(bundle, self.good)
        shutil.copytree(bundle, self.evil)
        graph = onnx.load(self.evil / "model.onnx")
        for tensor in graph.graph.initializer:
            if len(tensor.dims) == 2 and tensor.raw_data:
                weights = np.frombuffer(tensor.raw_data, np.float32)
                tensor.raw_data = weights[::-1].tobytes()
        onnx.save(graph, self.evil / "model.onnx")
        self.lead_to(self.good)

    def lead_to(self, bundle: Path) -> None:
        """Put another link in its place by one rename."""
        fresh = self.path.with_name("fresh")
        fresh.symlink_to(bundle.name)
        fresh.rename(self.path)

    def while_evil(self, call: Callable[..., Any]) -> Callable[..., Any]:
        """Return ``call``, during which the link leads to the other bundle."""

        def flipped(*arguments: Any, **more: Any) -> Any:
            self.lead_to(self.evil)
            try:
                return call(*arguments, **more)
            finally:
                self.lead_to(self.good)

        return flipped


@pytest.fixture
def link(tiny_bundle: Path, tmp_path: Path) -> Link:
    return Link(tmp_path, tiny_bundle)


@pytest.fixture(scope="module")
def expected(tiny_bundle: Path) -> FloatArray:
    return load(tiny_bundle, "onnxruntime").encode(TEXTS)


def pin(link: Link) -> str:
    return sha256_file(link.good / "manifest.json")


@pytest.mark.parametrize(
    ("engine", "opened"),
    [
        ("onnxruntime", "pipeline.engines.onnxruntime.open_session"),
        ("openvino", "pipeline.engines.openvino.OpenVINOEncoder"),
        ("onnxruntime", "pipeline.runtime.loading.Tokenizer"),
        ("onnxruntime", "pipeline.bundle.checker.external_locations"),
    ],
)
def test_a_link_that_is_flipped_while_something_opens(
    engine: str,
    opened: str,
    link: Link,
    expected: FloatArray,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if engine == "openvino":
        pytest.importorskip("openvino")
    module, _, name = opened.rpartition(".")
    original = getattr(__import__(module, fromlist=[name]), name)
    monkeypatch.setattr(opened, link.while_evil(original))
    encoder = load(link.path, engine, manifest_sha256=pin(link))
    np.testing.assert_allclose(encoder.encode(TEXTS), expected, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("back", [False, True], ids=["and stays", "and back"])
def test_a_link_that_is_flipped_at_any_open(
    back: bool, link: Link, expected: FloatArray, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At the first, the second … file that is opened; until there are no more."""
    original, count = os.open, 0
    flip_at = 0

    def counted(*arguments: Any, **more: Any) -> int:
        nonlocal count
        count += 1
        if count == flip_at and back:
            return int(link.while_evil(original)(*arguments, **more))
        if count == flip_at:
            link.lead_to(link.evil)
        return original(*arguments, **more)

    monkeypatch.setattr(os, "open", counted)
    loaded, refusals = 0, []
    while flip_at <= count:
        flip_at, count = flip_at + 1, 0
        link.lead_to(link.good)
        try:
            encoder = load(link.path, "onnxruntime", manifest_sha256=pin(link))
        except BundleError as error:
            refusals.append(str(error))
            continue
        loaded += 1
        np.testing.assert_allclose(encoder.encode(TEXTS), expected, atol=1e-5)
    assert loaded
    assert all(str(link.path) in words and "/proc/self/fd" not in words for words in refusals)
    assert flip_at > 10


def test_no_directory_stays_open(tiny_bundle: Path) -> None:
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(3):
        encoder = load(tiny_bundle, "onnxruntime")
        with pytest.raises(BundleError):
            load(tiny_bundle, "onnxruntime", manifest_sha256="0" * 64)
    del encoder
    assert len(list(Path("/proc/self/fd").iterdir())) <= before


@pytest.mark.parametrize("how", ["replaced", "a link"])
def test_a_directory_inside_that_is_swapped(
    how: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``cuda/`` between the check of its graph and its being held."""
    for name in ("cuda", "other"):
        (tmp_path / name).mkdir()
        onnx.save(onnx.ModelProto(), tmp_path / name / "model.onnx")
        with (tmp_path / name / "model.onnx").open("ab") as file:
            file.write(onnx.ModelProto(producer_name=name.ljust(9)).SerializeToString())
    path = tmp_path / "cuda/model.onnx"
    listed = {"sha256": sha256_file(path), "bytes": path.stat().st_size}
    checker = Checker(tmp_path, {"files": {"cuda/model.onnx": listed}})
    assert checker.hold("cuda/model.onnx").read_bytes() == path.read_bytes()

    def swap(*arguments: Any) -> HeldDirectory:
        (tmp_path / "cuda").rename(tmp_path / "away")
        if how == "replaced":
            (tmp_path / "other").rename(tmp_path / "cuda")
        else:
            (tmp_path / "cuda").symlink_to("other")
        return HeldDirectory(*arguments)

    monkeypatch.setattr("pipeline.bundle.checker.HeldDirectory", swap)
    with pytest.raises(ChangedError, match="changed while it was opened"):
        checker.hold("cuda/model.onnx")
