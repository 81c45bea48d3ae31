"""load: what is malformed or contradicts itself is refused by name, before a text comes."""

import copy
import json
import os
import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from light_bundle import write_bundle

from pipeline.contracts import OnnxModel, SourceModel, sha256_file
from pipeline.errors import BundleError
from pipeline.runtime import load
from pipeline.runtime.encoder import TextEncoder
from pipeline.runtime.output import quantize_embeddings
from pipeline.text.tokenizer_settings import WRAPPING

Change = Callable[[dict[str, Any]], Any]


@pytest.fixture(scope="module")
def plain(
    tiny_source: SourceModel, tiny_fp32: OnnxModel, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The tiny model's bundle."""
    return write_bundle(tmp_path_factory.mktemp("bundle") / "tiny", tiny_source, tiny_fp32)


@pytest.fixture(scope="module")
def encoder(plain: Path) -> TextEncoder:
    """The tiny model in ONNX Runtime."""
    return load(plain, engine="onnxruntime")


def changed(plain: Path, bundle: Path, name: str, change: Change) -> Path:
    """Return a copy of a bundle with another JSON file, which its manifest lists as it is."""
    shutil.copytree(plain, bundle)
    path = bundle / name
    content = json.loads(path.read_text("utf-8"))
    path.write_text(json.dumps(change(content)), "utf-8")
    if name != "manifest.json":
        manifest = json.loads((bundle / "manifest.json").read_text("utf-8"))
        manifest["files"][name] = {"sha256": sha256_file(path), "bytes": path.stat().st_size}
        (bundle / "manifest.json").write_text(json.dumps(manifest), "utf-8")
    return bundle


@pytest.mark.parametrize(
    ("change", "seen"),
    [
        (lambda _: [], "expected an object, saw []"),
        (lambda _: "settings", 'expected an object, saw "settings"'),
        (lambda c: c | {"pad_token": {}}, "pad_token is {}, expected a string or an object"),
        (lambda c: c | {"pad_token": 0}, "pad_token is 0, expected a string"),
        (lambda c: c | {"truncation_side": "up"}, 'truncation_side is "up", expected left'),
        (lambda c: c | {"padding_side": 1}, "padding_side is 1, expected left or right"),
        (lambda c: c | {"split_special_tokens": "no"}, "split_special_tokens is"),
        (lambda c: c | {"pad_token_type_id": "0"}, 'pad_token_type_id is "0", expected a whole'),
        (lambda c: c | {"pad_token_type_id": -1}, "pad_token_type_id is -1"),
        (lambda c: c | {"pad_token_type_id": 99}, "pad_token_type_id is 99"),
        (lambda c: c | {"embedding_rows": True}, "embedding_rows is true, expected"),
        (lambda c: c | {WRAPPING: {}}, f"{WRAPPING}.bare is null"),
    ],
)  # fmt: skip
def test_malformed_tokenizer_settings_are_named(
    change: Change, seen: str, plain: Path, tmp_path: Path
) -> None:
    bundle = changed(plain, tmp_path / "b", "tokenizer_config.json", change)
    with pytest.raises(BundleError) as caught:
        load(bundle, engine="onnxruntime")
    assert seen in str(caught.value)
    assert "tokenizer_config.json" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_settings_left_out_or_null_are_the_library_s(
    encoder: TextEncoder, plain: Path, tmp_path: Path
) -> None:
    none = dict.fromkeys(
        ("padding_side", "truncation_side", "split_special_tokens", "pad_token_type_id")
    )
    bundle = changed(plain, tmp_path / "b", "tokenizer_config.json", lambda c: c | none)
    texts = ["one", "two words"]
    vectors = load(bundle, engine="onnxruntime").encode(texts)
    np.testing.assert_allclose(vectors, encoder.encode(texts), atol=1e-6)


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
@pytest.mark.parametrize(("key", "value"), [("dimension", 33), ("max_length", 100_000)])
def test_a_manifest_is_held_against_the_model(
    key: str, value: int, engine: str, plain: Path, tmp_path: Path
) -> None:
    if engine == "openvino":
        pytest.importorskip("openvino")

    def change(manifest: dict[str, Any]) -> dict[str, Any]:
        manifest["model"][key] = value
        return manifest

    bundle = changed(plain, tmp_path / "b", "manifest.json", change)
    with pytest.raises(BundleError, match=rf"model\.{key} is {value}, the .*; publish"):
        load(bundle, engine=engine)


@pytest.mark.parametrize(
    ("low", "high", "seen"),
    [
        (np.nan, 1.0, r"dimension 3 \[nan, 1\]: expected the smallest value, then the largest"),
        (0.0, np.inf, r"dimension 3 \[0, inf\]"),
        (1.0, -1.0, r"dimension 3 \[1, -1\]"),
        (0.5, 0.5, r"dimension 3 \[0.5, 0.5\] have no width"),
    ],
)
def test_ranges_that_are_none(low: float, high: float, seen: str, encoder: TextEncoder) -> None:
    ranges = np.stack((np.full(32, -1.0), np.full(32, 1.0)))
    ranges[:, 3] = low, high
    for precision in ("int8", "uint8"):
        with pytest.raises(ValueError, match=seen):
            encoder.encode(["a"], precision=precision, ranges=ranges)
    if low != high:
        with pytest.raises(ValueError, match=seen):
            quantize_embeddings(np.zeros((1, 32), np.float32), "int8", ranges)


def test_an_encoder_is_not_pickled_and_says_what_to_do(encoder: TextEncoder) -> None:
    for attempt in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError, match="send the bundle's directory, and load it there"):
            attempt(encoder)


SETTINGS = "config_sentence_transformers.json"


@pytest.mark.parametrize("said", ["angle", 5, ["cosine"]])
def test_a_similarity_that_is_none(said: object, plain: Path, tmp_path: Path) -> None:
    from pipeline.runtime.sentence_transformer import as_sentence_transformer

    change: Change = lambda config: config | {"similarity_fn_name": said}  # noqa: E731
    bundle = changed(plain, tmp_path / "b", SETTINGS, change)
    with pytest.raises(BundleError, match=rf"{SETTINGS}: .*publish the bundle again"):
        as_sentence_transformer(bundle, engine="onnxruntime")


def test_the_similarity_is_read_as_published(plain: Path, tmp_path: Path) -> None:
    from pipeline.runtime.sentence_transformer import as_sentence_transformer

    bundle = changed(plain, tmp_path / "b", SETTINGS, lambda c: c | {"similarity_fn_name": "dot"})
    assert as_sentence_transformer(bundle, engine="onnxruntime").similarity_fn_name == "dot"
    (bundle / SETTINGS).write_text("{}")
    with pytest.raises(BundleError, match="changed after publishing"):
        as_sentence_transformer(bundle, engine="onnxruntime")


_FORKED = """
import os, sys
from pipeline.runtime import Batcher, load
bundle, engine = sys.argv[1:]
encoder = load(bundle, engine=engine)
batcher = Batcher(encoder)
texts = ["some words"] * 40
batcher.encode(texts[0])
encoder.encode(texts)
if os.fork() == 0:
    for use in (encoder.encode, batcher.submit):
        try:
            use("a text")
        except RuntimeError as error:
            print(error)
    print(load(bundle).encode(texts).shape)
    try:
        load(bundle, engine="openvino")
    except Exception as error:
        print(error)
    sys.exit(7)
print("status", os.waitstatus_to_exitcode(os.wait()[1]))
batcher.close()
print(encoder.encode(texts).shape)
"""


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "register_at_fork"), reason="this system does not fork")
@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_a_forked_child_is_told_and_ends(engine: str, plain: Path) -> None:
    pytest.importorskip("openvino")
    done = subprocess.run(
        [sys.executable, "-u", "-c", _FORKED, str(plain), engine],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    lines = done.stdout.splitlines()
    assert done.returncode == 0, done.stderr
    assert sum("load the bundle after the fork" in line for line in lines) == 2
    assert "status 7" in lines
    assert lines.count("(40, 32)") == 2
    assert any("OpenVINO hangs in such a child" in line for line in lines)


_FORKED_AT_WORK = """
import os, signal, sys, threading, time
from pipeline.runtime import Batcher, load
bundle, engine = sys.argv[1:]
encoder = load(bundle, engine=engine)
batcher = Batcher(encoder)
texts = ["some words of a text " * (1 + i % 7) for i in range(64)]
stop = threading.Event()
def work(encode, what):
    while not stop.is_set():
        encode(what)
works = 2 * [(encoder.encode, texts), (batcher.encode, texts[3])]
threads = [threading.Thread(target=work, args=each) for each in works]
for thread in threads:
    thread.start()
codes = []
for i in range(5):
    time.sleep(0.02 * (i % 3))
    if (child := os.fork()) == 0:
        signal.alarm(60)  # a child that hangs ends by it
        for use in (encoder.encode, batcher.submit):
            try:
                use("a text")
            except RuntimeError as error:
                print(str(error).partition(":")[2])
        batcher.close()
        print(load(bundle, engine="onnxruntime").encode(texts).shape)
        sys.exit(7)
    codes.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
stop.set()
for thread in threads:
    thread.join()
batcher.close()
print(codes)
"""


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "register_at_fork"), reason="this system does not fork")
@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_a_fork_while_other_threads_encode(engine: str, plain: Path) -> None:
    """No child hangs, whatever the threads held: it is told, loads its own, and ends."""
    if engine == "openvino":
        pytest.importorskip("openvino")
    done = subprocess.run(
        [sys.executable, "-u", "-W", "ignore", "-c", _FORKED_AT_WORK, str(plain), engine],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    lines = done.stdout.splitlines()
    assert done.returncode == 0, done.stderr
    assert lines[-1] == str([7] * 5)
    assert sum("load the bundle after the fork" in line for line in lines) == 10
    assert lines.count("(64, 32)") == 5
