"""The Triton repository: what Triton's own schema reads from it, and what is in it."""

import dataclasses
import json
import shutil
import subprocess
import sys
import types
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from light_bundle import write_bundle

from pipeline.bundle.engine_writing import write_engine
from pipeline.bundle.engines import open_parent
from pipeline.bundle.triton.manifest import triton_problems
from pipeline.bundle.triton.repository import (
    MAX_BATCH,
    max_batch,
    padded_lengths,
    refresh_triton,
    write_triton,
)
from pipeline.bundle.triton.tokenizer_step import TokenizerStep, TritonPythonModel
from pipeline.config import EngineChoice, EngineConfig
from pipeline.contracts import Engine, OnnxModel, Profile, SourceModel
from pipeline.stages.build import make_profiles
from pipeline.text.tokens import Tokenizer

text_format: Any = pytest.importorskip("google.protobuf.text_format")
model_config_pb2: Any = pytest.importorskip("tritonclient.grpc.model_config_pb2")

PROMPTS = {"query": "query: ", "passage": "passage: "}
BUCKETS = [20, 48]


def profiles(most: int = 32) -> tuple[Profile, ...]:
    config = EngineConfig(
        runtime=EngineChoice.tensorrt, sequence_buckets=BUCKETS, max_batch=most, opt_batch=8
    )
    return make_profiles(config, max_length=48)


def engine(
    directory: Path,
    model: OnnxModel,
    target: str = "sm_89",
    runtime: str = "tensorrt",
    most: int = 32,
) -> Engine:
    path = directory / f"{runtime}-{target}.plan"
    path.write_bytes(target.encode())
    return Engine(
        path=path,
        sha256="",
        runtime=runtime,
        runtime_version="11.2.1",
        target=target,
        profiles=profiles(most),
        inputs=model.inputs,
        outputs=model.outputs,
        layer_types={},
        source_sha256=model.sha256,
    )


def write(
    bundle: Path, source: SourceModel, model: OnnxModel, engines: Sequence[Engine] = ()
) -> Path:
    """Write a repository into a bundle of the files it reads, and return it."""
    write_bundle(bundle, source, model)
    parent = open_parent(bundle)
    added = [
        write_engine(bundle / "engines", plan, parent, measured={}, settings={}, environment={})
        for plan in engines
    ]
    write_triton(bundle / "triton", parent, added)
    return bundle / "triton"


def read_config(directory: Path) -> Any:
    """Parse a configuration as Triton does: an unknown field or a wrong type fails."""
    text = (directory / "config.pbtxt").read_text("utf-8")
    config = text_format.Parse(text, model_config_pb2.ModelConfig())
    assert config.name == directory.name
    return config


@pytest.fixture(scope="module")
def prompted(tiny_source: SourceModel) -> SourceModel:
    return dataclasses.replace(tiny_source, prompts=PROMPTS, default_prompt="passage")


@pytest.fixture(scope="module")
def repository(
    prompted: SourceModel, tiny_fp32: OnnxModel, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """Of a bundle without a plan for Triton."""
    directory = tmp_path_factory.mktemp("onnx")
    rtx = engine(directory, tiny_fp32, "ampere_plus", "tensorrt_rtx")
    return write(directory / "bundle", prompted, tiny_fp32, [rtx])


@pytest.fixture(scope="module")
def plans(
    prompted: SourceModel, tiny_fp32: OnnxModel, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """Of a bundle with plans for two kinds of GPU, of which one takes smaller batches."""
    directory = tmp_path_factory.mktemp("plans")
    engines = [
        engine(directory, tiny_fp32, "sm_89"),
        engine(directory, tiny_fp32, "sm_120", most=16),
    ]
    return write(directory / "bundle", prompted, tiny_fp32, engines)


def test_the_latest_version_and_one_set_of_profiles(
    prompted: SourceModel, tiny_fp32: OnnxModel, tmp_path: Path
) -> None:
    """An engine is added on another machine, with another TensorRT or other settings."""
    old = engine(tmp_path, tiny_fp32, "sm_89")
    new = dataclasses.replace(old, runtime_version="11.10.0")
    single = Profile(min=(1, 1), opt=(1, 48), max=(1, 48))
    other = dataclasses.replace(engine(tmp_path, tiny_fp32, "sm_90"), profiles=(single,))
    written = write(tmp_path / "bundle", prompted, tiny_fp32, [old, new, other])
    plans = dict(read_config(written / "tiny_encoder").cc_model_filenames)
    assert plans == {"8.9": "tensorrt-11.10.0-sm_89.plan"}


def test_refreshed_for_an_engine_that_was_added(
    prompted: SourceModel, tiny_fp32: OnnxModel, tmp_path: Path
) -> None:
    bundle = tmp_path / "bundle"
    write(bundle, prompted, tiny_fp32)
    parent = open_parent(bundle)
    assert list(triton_problems(parent, [])) == []
    added = write_engine(
        bundle / "engines",
        engine(tmp_path, tiny_fp32, "sm_89"),
        parent,
        measured={},
        settings={},
        environment={},
    )
    refresh_triton(parent, [added])
    assert dict(read_config(bundle / "triton" / "tiny_encoder").cc_model_filenames) == {
        "8.9": "tensorrt-11.2.1-sm_89.plan"
    }
    assert list(triton_problems(parent, [added])) == []
    assert [path.name for path in bundle.iterdir() if path.name.startswith(".")] == []
    (problem,) = triton_problems(parent, [])
    assert "made with an engine tensorrt-11.2.1-sm_89 that is not there" in problem


@pytest.mark.parametrize(
    ("tamper", "named"),
    [
        (lambda t: (t / "tiny" / "config.pbtxt").write_text("x"), "config.pbtxt: 1 bytes"),
        (lambda t: (t / "more").write_text("x"), "more: not in the manifest of triton/"),
        (lambda t: (t / "manifest.json").unlink(), "manifest.json: No such file"),
        (lambda t: (t / "manifest.json").write_text("{"), "manifest.json: not JSON"),
        (
            lambda t: (t.parent / "manifest.json").write_text(
                (t.parent / "manifest.json").read_text() + " "
            ),
            "manifest.json: made of the bundle with manifest sha256",
        ),
    ],
)
def test_tampered_repository(
    repository: Path, tmp_path: Path, tamper: Callable[[Path], Any], named: str
) -> None:
    bundle = shutil.copytree(repository.parent, tmp_path / "bundle")
    tamper(bundle / "triton")
    (problem,) = triton_problems(open_parent(bundle), [])
    assert named in problem


@pytest.fixture(params=["repository", "plans"])
def either(request: pytest.FixtureRequest) -> Path:
    directory: Path = request.getfixturevalue(request.param)
    return directory


def shapes(tensors: Any) -> dict[str, tuple[int, list[int]]]:
    return {tensor.name: (tensor.data_type, list(tensor.dims)) for tensor in tensors}


def test_steps_fit_each_other(either: Path, prompted: SourceModel, tiny_fp32: OnnxModel) -> None:
    text, tokenizer, encoder = (
        read_config(either / f"tiny{suffix}") for suffix in ("", "_tokenizer", "_encoder")
    )
    names = {spec.name for spec in tiny_fp32.inputs}
    assert {spec.name for spec in tokenizer.output} == names
    assert shapes(tokenizer.output) == shapes(encoder.input)
    assert shapes(text.input) == shapes(tokenizer.input)
    assert [spec.optional for spec in text.input] == [False, True]
    assert shapes(text.output) == shapes(encoder.output)
    assert shapes(encoder.output) == {
        "sentence_embedding": (model_config_pb2.TYPE_FP32, [prompted.dimension])
    }
    first, second = text.ensemble_scheduling.step
    assert (first.model_name, second.model_name) == ("tiny_tokenizer", "tiny_encoder")
    assert dict(first.output_map) == dict(second.input_map) == {name: name for name in names}
    assert text.max_batch_size == tokenizer.max_batch_size == encoder.max_batch_size > 1
    for config in (tokenizer, encoder):
        assert config.HasField("dynamic_batching")
        assert config.dynamic_batching.max_queue_delay_microseconds > 0
        policy = config.dynamic_batching.default_queue_policy
        assert policy.timeout_action == policy.REJECT
        assert 1_000_000 <= policy.default_timeout_microseconds <= 30_000_000
        assert policy.allow_timeout_override
        assert 64 <= policy.max_queue_size <= 1024


def test_onnx_encoder(repository: Path) -> None:
    """A TensorRT-RTX plan is nothing for Triton's tensorrt backend."""
    config = read_config(repository / "tiny_encoder")
    assert config.platform == "onnxruntime_onnx"
    assert config.max_batch_size == MAX_BATCH
    assert not config.cc_model_filenames
    assert not config.instance_group
    assert [path.name for path in (repository / "tiny_encoder" / "1").iterdir()] == ["model.onnx"]


def test_int8_in_onnxruntime_stays_on_the_cpu(
    prompted: SourceModel, tiny_int8: Any, tmp_path: Path
) -> None:
    written = write(tmp_path / "bundle", prompted, tiny_int8.portable)
    (group,) = read_config(written / "tiny_encoder").instance_group
    assert group.kind == model_config_pb2.ModelInstanceGroup.KIND_CPU


def test_plan_for_each_compute_capability(plans: Path) -> None:
    config = read_config(plans / "tiny_encoder")
    assert config.platform == "tensorrt_plan"
    assert dict(config.cc_model_filenames) == {
        "8.9": "tensorrt-11.2.1-sm_89.plan",
        "12.0": "tensorrt-11.2.1-sm_120.plan",
    }
    files = {path.name for path in (plans / "tiny_encoder" / "1").iterdir()}
    assert files == set(config.cc_model_filenames.values())
    (group,) = config.instance_group
    assert group.kind == model_config_pb2.ModelInstanceGroup.KIND_GPU
    assert list(group.profile) == [str(i) for i in range(len(profiles()))]


def test_batches_and_lengths_stay_within_the_profiles(plans: Path, prompted: SourceModel) -> None:
    config = read_config(plans / "tiny_encoder")
    smaller = profiles(16)
    assert config.max_batch_size == 16
    assert list(config.dynamic_batching.preferred_batch_size) == [8, 16]
    warm = [
        (sample.batch_size, sample.inputs["input_ids"].dims[0]) for sample in config.model_warmup
    ]
    assert {length for _, length in warm} == {profile.max[1] for profile in smaller}
    settings = json.loads((plans / "tiny_tokenizer" / "1" / "settings.json").read_text("utf-8"))
    assert set(BUCKETS) <= set(settings["lengths"])
    for length in range(1, prompted.max_length + 1):
        padded = next(n for n in settings["lengths"] if n >= length)
        (own,) = (p for p in smaller if p.min[1] <= length <= p.max[1])
        assert padded <= own.max[1]


def test_warmup_feeds_every_input(either: Path, tiny_fp32: OnnxModel) -> None:
    config = read_config(either / "tiny_encoder")
    assert config.model_warmup
    for sample in config.model_warmup:
        assert set(sample.inputs) == {spec.name for spec in tiny_fp32.inputs}
        assert 1 <= sample.batch_size <= config.max_batch_size


@pytest.mark.parametrize("longest", [1, 15, 16, 17, 48, 250, 256, 512, 8192])
def test_few_lengths_that_cost_little(longest: int) -> None:
    lengths = padded_lengths(longest)
    assert lengths == sorted(set(lengths))
    assert lengths[-1] == longest
    assert len(lengths) <= 2 * max(1, longest.bit_length() - 3)
    for shorter, length in pairwise(lengths):
        assert length <= 1.5 * shorter or length == longest


def test_no_plans_no_limit_but_ours() -> None:
    assert max_batch([]) == MAX_BATCH


def test_files_are_links_and_move_one_by_one(either: Path) -> None:
    """No copies on disk, no symbolic links, no empty directory that a registry would lose."""
    bundle = either.parent
    for path in either.rglob("*"):
        assert not path.is_symlink()
        assert path.is_file() or any(path.iterdir())
    pairs = [(bundle / "tokenizer.json", either / "tiny_tokenizer" / "1" / "tokenizer.json")]
    for path in (either / "tiny_encoder" / "1").iterdir():
        plan = bundle / "engines" / path.stem / "model.plan"
        pairs.append((plan if path.suffix == ".plan" else bundle / path.name, path))
    assert len(pairs) > 1
    for original, link in pairs:
        assert original.samefile(link)


def test_nothing_of_this_machine(either: Path) -> None:
    for path in either.rglob("*"):
        if path.suffix in (".pbtxt", ".py") or path.name == "settings.json":
            assert str(either.parents[1]) not in path.read_text("utf-8")


# The tokenizer step.


@pytest.fixture(scope="module")
def step(repository: Path) -> TokenizerStep:
    return TokenizerStep(repository / "tiny_tokenizer" / "1")


def test_arrays_are_those_of_the_tokenizer(
    step: TokenizerStep, tiny_tokenizer: Tokenizer, evaluation_texts: Sequence[str]
) -> None:
    """Each request is padded for itself, to a length of its own texts."""
    requests = [[text] for text in evaluation_texts] + [list(evaluation_texts)]
    lengths = set()
    for texts, batch in zip(requests, step.encode(requests), strict=True):
        rows = tiny_tokenizer.rows(texts)
        longest = max(len(row.ids) for row in rows)
        length = next(n for n in padded_lengths(48) if n >= longest)
        lengths.add(length)
        expected = tiny_tokenizer.pad(rows, length=length)
        for name in ("input_ids", "attention_mask", "token_type_ids"):
            np.testing.assert_array_equal(getattr(batch, name), getattr(expected, name))
    assert len(lengths) > 2


@pytest.mark.parametrize(
    ("name", "text"),
    [("query", "query: "), ("passage", "passage: "), ("", "passage: "), ("document", "")],
)
def test_prompts(step: TokenizerStep, name: str, text: str) -> None:
    assert step.prompt(name) == text


def test_unknown_prompt(step: TokenizerStep) -> None:
    with pytest.raises(ValueError, match="'nix': the model has passage, query"):
        step.prompt("nix")


def test_step_needs_nothing_but_its_directory(repository: Path) -> None:
    """As on a server: no package of ours, and no library that its image does not have."""
    code = f"""
import sys
sys.path[:] = [p for p in sys.path if p not in ("", {str(Path.cwd())!r})]
sys.path.insert(0, {str(repository / "tiny_tokenizer" / "1")!r})
import model, pathlib, pipeline
print(pipeline.__file__)
step = model.TokenizerStep(pathlib.Path(model.__file__).parent)
print(step.encode([["a text"]])[0].input_ids.shape)
print(sorted({{m.split(".")[0] for m in sys.modules}} & {{"torch", "onnx", "jinja2", "hydra"}}))
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd="/"
    )
    where, shape, heavy = done.stdout.splitlines()
    assert Path(where).parent == repository / "tiny_tokenizer" / "1" / "pipeline"
    assert (shape, heavy) == ("(1, 16)", "[]")


class Request:
    """What Triton's python backend hands over, as far as the step looks at it."""

    def __init__(self, sent: list[tuple[str, Any, Any]], name: str, texts: list[bytes]) -> None:
        self.name = name
        self.text = types.SimpleNamespace(as_numpy=lambda: np.array(texts, object).reshape(-1, 1))
        send = lambda response, flags: sent.append((name, response, flags))  # noqa: E731
        self.get_response_sender = lambda: types.SimpleNamespace(send=send)


@pytest.fixture
def model(repository: Path, monkeypatch: pytest.MonkeyPatch) -> TritonPythonModel:
    """The tokenizer step as Triton runs it, on a stand-in for what the backend gives it."""
    triton: Any = types.ModuleType("triton_python_backend_utils")
    triton.TritonError = lambda text, code: text
    triton.TritonError.INVALID_ARG = 1
    triton.TritonError.CANCELLED = 2
    triton.InferenceResponse = lambda tensors=None, error=None: error or dict(tensors)
    triton.Tensor = lambda name, array: (name, array)
    triton.TRITONSERVER_RESPONSE_COMPLETE_FINAL = "final"
    triton.get_input_tensor_by_name = lambda r, name: r.text if name == "text" else None
    monkeypatch.setitem(sys.modules, "triton_python_backend_utils", triton)
    model = TritonPythonModel()
    outputs = {"output": [{"name": "input_ids"}, {"name": "attention_mask"}]}
    step = repository / "tiny_tokenizer"
    model.initialize(
        {"model_repository": str(step), "model_version": "1", "model_config": json.dumps(outputs)}
    )
    return model


def test_what_a_client_gave_up_is_dropped(model: TritonPythonModel) -> None:
    sent: list[Any] = []
    waiting, gone, leaves = (Request(sent, n, [b"word"]) for n in ("waiting", "gone", "leaves"))
    answers = {"waiting": [False, False], "gone": [True], "leaves": [False, True]}
    for request in (waiting, gone, leaves):
        vars(request)["is_cancelled"] = lambda name=request.name: answers[name].pop(0)
    tokenized: list[int] = []
    encode = model._step.encode
    vars(model._step)["encode"] = lambda texts, heads: (
        tokenized.append(len(texts)) or encode(texts, heads)  # type: ignore[func-returns-value]
    )
    model.execute([waiting, gone, leaves])
    assert tokenized == [2]
    assert not any(answers.values())
    assert [(name, said) for name, said, _ in sent[:2]] == [
        ("gone", "cancelled by its client"),
        ("leaves", "cancelled by its client"),
    ]
    assert [name for name, _, _ in sent] == ["gone", "leaves", "waiting"]
    assert set(sent[2][1]) == {"input_ids", "attention_mask"}


def test_shortest_first_and_errors_alone(model: TritonPythonModel) -> None:
    """Requests of one length follow each other, or Triton's batcher would not put them together."""
    sent: list[Any] = []
    texts = {
        "long": [b"word " * 40],
        "short": [b"word"],
        "broken": [b"\xff"],
        "two": [b"word", b"word " * 40],
        "also short": [b"words"],
    }
    model.execute([Request(sent, name, list(items)) for name, items in texts.items()])
    assert [name for name, _, _ in sent] == ["broken", "short", "also short", "long", "two"]
    assert {flags for _, _, flags in sent} == {"final"}
    assert "text: not UTF-8" in sent[0][1]
    for name, arrays, _ in sent[1:]:
        assert set(arrays) == {"input_ids", "attention_mask"}
        assert len(arrays["input_ids"]) == len(texts[name])
    assert [a["input_ids"].shape[1] for _, a, _ in sent[1:]] == [16, 16, 48, 48]
