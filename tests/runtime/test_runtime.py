"""runtime: a published bundle encodes as the Sentence Transformer does, or says why it cannot."""

import json
import re
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import command_line
import numpy as np
import pytest

from pipeline.engines.gpu import find_gpu
from pipeline.errors import BundleError
from pipeline.runtime import TextEncoder, load
from pipeline.vectors import FloatArray, row_cosines

CLOSE = 0.99999
TEXTS = [
    "A short sentence.",
    "",
    " ",
    "Two  spaces,\ttab,\r\nnew line",
    "emoji 🙂👩‍👩‍👧‍👦🏳️‍🌈 and 日本語, עברית, ŉ, é, e\u0301",
    "control \x00\x01\x07\x1b[0m\x7f\u200b\ufeff characters",
    "[CLS] [SEP] [MASK] [PAD] are tokens here too",
    "x" * 5000,
    "word " * 10_000,
    "A short sentence.",
]


def reference(directory: Path) -> Any:
    from sentence_transformers import SentenceTransformer

    return SentenceTransformer(str(directory), device="cpu")


def assert_close(ours: FloatArray, theirs: FloatArray) -> None:
    """Check that both hold the same vectors in the same order."""
    assert ours.shape == theirs.shape
    assert ours.dtype == theirs.dtype == np.float32
    cosines = row_cosines(np.atleast_2d(ours), np.atleast_2d(theirs))
    assert cosines.min(initial=1.0) >= CLOSE
    norms = np.linalg.norm(ours, axis=-1), np.linalg.norm(theirs, axis=-1)
    np.testing.assert_allclose(*norms, rtol=1e-4)


def publish(directory: Path, artifacts: Path, *more: str) -> Path:
    """Run the pipeline on a model and return the bundle."""
    arguments = [*command_line.settings(directory), f"artifacts_dir={artifacts}", *more]
    return command_line.run_here(*arguments)


@pytest.fixture(scope="module")
def fp32_bundle(tiny_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model in fp32, with the engines that can be built here."""
    return publish(tiny_dir, tmp_path_factory.mktemp("fp32"), "precision=fp32")


@pytest.fixture(scope="module")
def int8_bundle(tiny_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model in int8."""
    return publish(
        tiny_dir,
        tmp_path_factory.mktemp("int8"),
        "precision=int8",
        "engine=onnxruntime",
        *command_line.ANY_INT8,
    )


@pytest.fixture(scope="module")
def fp32(fp32_bundle: Path) -> TextEncoder:
    """The fp32 bundle, loaded."""
    return load(fp32_bundle)


@pytest.fixture(scope="module")
def int8(int8_bundle: Path) -> TextEncoder:
    """The int8 bundle, loaded."""
    return load(int8_bundle)


@pytest.fixture(scope="module")
def theirs(tiny_dir: Path) -> Any:
    """The tiny Sentence Transformer."""
    return reference(tiny_dir)


@pytest.fixture
def bundle(fp32_bundle: Path, tmp_path: Path) -> Path:
    """A copy of the fp32 bundle, to damage."""
    return shutil.copytree(fp32_bundle, tmp_path / "bundle")


@pytest.fixture
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine without a GPU."""
    monkeypatch.setattr("pipeline.engines.tensorrt.find_gpu", lambda: None)


# Encoding.


@pytest.mark.parametrize("batch_size", [1, 3, 32])
def test_encodes_as_the_sentence_transformer(
    fp32: TextEncoder, theirs: Any, batch_size: int
) -> None:
    assert_close(fp32.encode(TEXTS, batch_size), theirs.encode(TEXTS))


def test_one_str_gives_one_vector(fp32: TextEncoder, theirs: Any) -> None:
    vector = fp32.encode(TEXTS[0])
    assert vector.shape == (32,)
    assert_close(vector, theirs.encode(TEXTS[0]))
    assert_close(fp32.encode(""), theirs.encode(""))


def test_no_texts_give_no_vectors(fp32: TextEncoder) -> None:
    vectors = fp32.encode([])
    assert vectors.shape == (0, 32)
    assert vectors.dtype == np.float32


def test_many_texts_keep_their_order(fp32: TextEncoder, theirs: Any) -> None:
    texts = [f"{'very ' * (i % 7)}short number {i}" for i in range(5000)]
    ours = fp32.encode(texts, 64)
    assert_close(ours, theirs.encode(texts, batch_size=64))
    assert len(np.unique(ours.round(4), axis=0)) > 4500


def test_tuples_and_arrays_are_sequences_too(fp32: TextEncoder) -> None:
    expected = fp32.encode(TEXTS[:3])
    assert_close(fp32.encode(tuple(TEXTS[:3])), expected)
    assert_close(fp32.encode(np.array(TEXTS[:3])), expected)


@pytest.mark.parametrize("batch_size", [0, -1])
def test_batch_size_below_one(fp32: TextEncoder, batch_size: int) -> None:
    with pytest.raises(ValueError, match=f"batch_size.*{batch_size}"):
        fp32.encode(["text"], batch_size)


@pytest.mark.parametrize("texts", [[1], ["text", None], [["nested"]], [b"bytes"], b"bytes", 5])
def test_not_text(fp32: TextEncoder, texts: Any) -> None:
    with pytest.raises(TypeError):
        fp32.encode(texts)


def test_an_iterator_is_encoded_or_refused(fp32: TextEncoder) -> None:
    """A generator is no Sequence; what must not happen is an empty result."""
    try:
        vectors = fp32.encode(text for text in TEXTS[:3])
    except TypeError:
        return
    assert_close(vectors, fp32.encode(TEXTS[:3]))


def test_int8_vector_does_not_depend_on_its_batch(int8: TextEncoder) -> None:
    long = "padding for the others, " * 10
    alone = np.stack([int8.encode(text) for text in TEXTS])
    assert_close(int8.encode(TEXTS, batch_size=len(TEXTS)), alone)
    assert_close(int8.encode([*TEXTS, long], batch_size=64)[:-1], alone)
    rows = int8.tokenizer.rows(TEXTS)
    padded = [int8.engine.encode(int8.tokenizer.pad([row], length=48))[0] for row in rows]
    assert_close(np.stack(padded), alone)


def test_threads_agree(fp32: TextEncoder) -> None:
    texts = [f"{'long ' * (i % 9)}text {i}" for i in range(200)]
    expected = fp32.encode(texts)
    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(lambda size: fp32.encode(texts, size), [1, 7, 16, 32] * 4))
    for result in results:
        assert_close(result, expected)


# Prompts.


def with_prompts(directory: Path, tiny_dir: Path, default: str | None) -> Path:
    """Copy the tiny model and give it prompts."""
    shutil.copytree(tiny_dir, directory)
    path = directory / "config_sentence_transformers.json"
    config = json.loads(path.read_text())
    config["prompts"] = {"query": "query: ", "passage": "text to find: "}
    config["default_prompt_name"] = default
    path.write_text(json.dumps(config))
    return directory


@pytest.fixture(scope="module", params=[None, "passage"])
def prompted(
    request: pytest.FixtureRequest, tiny_dir: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[TextEncoder, Any]:
    """A model with prompts, as published and as it is, without and with a default prompt."""
    root = tmp_path_factory.mktemp("prompted")
    model = with_prompts(root / "model", tiny_dir, request.param)
    bundle = publish(model, root / "artifacts", "precision=fp32", "engine=onnxruntime")
    return load(bundle), reference(model)


@pytest.mark.slow
@pytest.mark.parametrize(
    "choice",
    [
        {},
        {"prompt_name": "query"},
        {"prompt_name": "passage"},
        {"prompt": "anything: "},
        {"prompt": "anything: ", "prompt_name": "query"},
        {"prompt": ""},
    ],
)
def test_prompts(prompted: tuple[TextEncoder, Any], choice: dict[str, str]) -> None:
    ours, theirs = prompted
    assert_close(ours.encode(TEXTS, **choice), theirs.encode(TEXTS, **choice))  # type: ignore[arg-type]


@pytest.mark.slow
def test_prompts_matter(prompted: tuple[TextEncoder, Any]) -> None:
    ours, theirs = prompted
    plain, query = ours.encode(TEXTS[0], prompt=""), ours.encode(TEXTS[0], prompt_name="query")
    assert row_cosines(plain[None], query[None])[0] < 0.999
    by_default = ours.encode(TEXTS[0])
    expected = "" if theirs.default_prompt_name is None else "text to find: "
    assert_close(by_default, ours.encode(TEXTS[0], prompt=expected))


@pytest.mark.slow
def test_unknown_prompt_name(prompted: tuple[TextEncoder, Any]) -> None:
    ours, _ = prompted
    with pytest.raises(ValueError, match=r"'qeury'.*passage, query"):
        ours.encode(TEXTS, prompt_name="qeury")


# Loading.


def test_not_a_bundle(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"manifest\.json.*python -m pipeline"):
        load(tmp_path)


@pytest.mark.parametrize("content", ["", "{", "[]", '{"schema": 2}', '{"schema": 1}'])
def test_damaged_manifest(bundle: Path, content: str) -> None:
    (bundle / "manifest.json").write_text(content)
    with pytest.raises(BundleError, match=r"manifest\.json"):
        load(bundle)


@pytest.mark.parametrize("name", ["model.onnx", "tokenizer.json", "tokenizer_config.json"])
def test_flipped_byte(bundle: Path, name: str) -> None:
    content = bytearray((bundle / name).read_bytes())
    content[len(content) // 2] ^= 0x01
    (bundle / name).write_bytes(content)
    with pytest.raises(BundleError, match=rf"{name}: sha256 .*changed after publishing"):
        load(bundle, "onnxruntime")


@pytest.mark.parametrize("name", ["model.onnx", "tokenizer.json"])
def test_missing_file(bundle: Path, name: str) -> None:
    (bundle / name).unlink()
    with pytest.raises(BundleError, match=f"{name}: missing"):
        load(bundle, "onnxruntime")


def test_unlisted_file(bundle: Path) -> None:
    manifest = json.loads((bundle / "manifest.json").read_text())
    del manifest["files"]["model.onnx"]
    (bundle / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(BundleError, match=r"model\.onnx: not in the manifest"):
        load(bundle, "onnxruntime")


def test_link_out_of_the_bundle(bundle: Path) -> None:
    (bundle / "model.onnx").rename(bundle.with_name("elsewhere.onnx"))
    (bundle / "model.onnx").symlink_to(bundle.with_name("elsewhere.onnx"))
    with pytest.raises(BundleError, match=r"model\.onnx is a symbolic link"):
        load(bundle, "onnxruntime")


def test_unknown_engine(bundle: Path) -> None:
    with pytest.raises(BundleError, match=r"'cuda'.*tensorrt_rtx, openvino, onnxruntime"):
        load(bundle, "cuda")


def test_engine_that_cannot_run_here(fp32_bundle: Path, no_gpu: None) -> None:
    if not (fp32_bundle / "engines").is_dir():
        pytest.skip("no engine can be built here")
    with pytest.raises(BundleError, match=r"no CUDA device on this machine.*engine='onnxruntime'"):
        load(fp32_bundle, "tensorrt_rtx")


def test_plan_that_does_not_load(
    fp32_bundle: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A GPU that the plan is for, as far as anybody can tell before TensorRT-RTX looks."""
    if not (fp32_bundle / "engines").is_dir():
        pytest.skip("no engine can be built here")
    if find_gpu() is not None:
        pytest.skip("the plan loads on a GPU")
    monkeypatch.setattr("pipeline.engines.tensorrt.obstacle", lambda *_: None)
    with caplog.at_level("INFO"):
        assert load(fp32_bundle).engine.name == cpu_runtime(fp32_bundle)
    assert re.search(r"not used: .*\.plan: .*cuda", caplog.text)  # no driver, or no bindings
    with pytest.raises(BundleError, match=r"engine tensorrt_rtx: .*cuda.*'onnxruntime'"):
        load(fp32_bundle, "tensorrt_rtx")


def test_engine_that_was_not_built(int8_bundle: Path) -> None:
    with pytest.raises(BundleError, match="the bundle holds no such engine"):
        load(int8_bundle, "tensorrt")


def test_auto_falls_back_to_what_was_faster(fp32_bundle: Path, no_gpu: None) -> None:
    assert load(fp32_bundle).engine.name == cpu_runtime(fp32_bundle)


def cpu_runtime(bundle: Path) -> str:
    """Return the runtime that ran the file faster when it was validated."""
    return str(json.loads((bundle / "manifest.json").read_text("utf-8"))["cpu_runtime"])


def set_cpu_runtime(bundle: Path, name: str) -> None:
    path = bundle / "manifest.json"
    manifest = json.loads(path.read_text("utf-8")) | {"cpu_runtime": name}
    path.write_text(json.dumps(manifest))
    shutil.rmtree(bundle / "engines", ignore_errors=True)  # of the manifest as it was


@pytest.fixture
def fp32_copy(fp32_bundle: Path, tmp_path: Path) -> Path:
    """The fp32 bundle, to change."""
    return Path(shutil.copytree(fp32_bundle, tmp_path / "fp32"))


@pytest.mark.parametrize("name", ["openvino", "onnxruntime"])
def test_auto_takes_what_was_fastest_when_validated(name: str, bundle: Path, no_gpu: None) -> None:
    pytest.importorskip("openvino")
    set_cpu_runtime(bundle, name)
    assert load(bundle).engine.name == name


class OnCuda:
    """ONNX Runtime where it has a GPU, or (``device``) where CUDA did not load after all."""

    device = "cuda"
    name = "onnxruntime"

    def __init__(self, path: Path, *, cuda: bool = False) -> None:
        assert path.is_file()
        self.device = type(self).device if cuda else "cpu"


@pytest.mark.parametrize(
    ("device", "name", "seen"),
    [
        ("cuda", "openvino", ("onnxruntime", "cuda")),
        ("cuda", "onnxruntime", ("onnxruntime", "cuda")),
        ("cpu", "openvino", ("openvino", "cpu")),
    ],
)
def test_auto_takes_a_gpu_before_the_fastest_of_the_cpu(
    device: str,
    name: str,
    seen: tuple[str, str],
    fp32_copy: Path,
    no_gpu: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pytest.importorskip("openvino")
    monkeypatch.setattr(OnCuda, "device", device)
    monkeypatch.setattr("pipeline.engines.onnxruntime.has_cuda", lambda: True)
    monkeypatch.setattr("pipeline.engines.onnxruntime.OnnxRuntimeEncoder", OnCuda)
    set_cpu_runtime(fp32_copy, name)
    engine = load(fp32_copy).engine
    assert (engine.name, engine.device) == seen


def test_int8_stays_on_the_cpu_where_there_is_a_gpu(
    bundle: Path, no_gpu: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("openvino")
    monkeypatch.setattr("pipeline.engines.onnxruntime.has_cuda", lambda: True)
    set_cpu_runtime(bundle, "openvino")
    assert load(bundle).engine.name == "openvino"


def test_openvino_encodes_as_onnxruntime_does(int8_bundle: Path, fp32_bundle: Path) -> None:
    pytest.importorskip("openvino")
    for directory in (int8_bundle, fp32_bundle):
        texts = [*TEXTS, "word " * 100]
        ours, theirs = (load(directory, name).encode(texts) for name in ("openvino", "onnxruntime"))
        assert row_cosines(ours, theirs).min() > 0.999


def test_openvino_that_is_not_installed(
    bundle: Path, no_gpu: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.engines.openvino.missing", lambda: "not installed")
    set_cpu_runtime(bundle, "openvino")
    assert load(bundle).engine.name == "onnxruntime"
    with pytest.raises(BundleError, match=r"engine openvino: not installed.*engine='onnxruntime'"):
        load(bundle, "openvino")


def test_serving_needs_neither_torch_nor_hydra(int8_bundle: Path) -> None:
    code = (
        "import sys; from pipeline.runtime import load; "
        "print(load(sys.argv[1]).encode(['text']).shape); "
        "print({'torch', 'transformers', 'hydra', 'onnx'} & set(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(int8_bundle)],
        env=command_line.environment(),
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.splitlines() == ["(1, 32)", "set()"]


def test_sentence_transformers_loads_the_bundle(bundle: Path, tiny_dir: Path, theirs: Any) -> None:
    shutil.copyfile(tiny_dir / "model.safetensors", bundle / "model.safetensors")
    assert_close(reference(bundle).encode(TEXTS), theirs.encode(TEXTS))
