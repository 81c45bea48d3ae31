"""Checkpoints that people have, of which every trouble ends in one line that says what to do."""

import json
import logging
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from light_bundle import write_bundle
from own_path import graph_of
from tokenized import POSITIONS, ROWS, Settings, save_tokenized

from pipeline.config import ModelConfig
from pipeline.contracts import SourceModel
from pipeline.errors import ConfigError, PipelineError, ResolveError
from pipeline.flow.compose import _check_texts
from pipeline.runtime import load
from pipeline.source.references import refuse_references
from pipeline.stages.resolve import resolve
from pipeline.text.tokens import Tokenizer

Change = Callable[[Path], object]


def edit(path: Path, **settings: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | settings))


def resolved(saved: Path, root: Path, **config: Any) -> SourceModel:
    return resolve(ModelConfig(name="tiny", directory=str(saved), **config), root / "resolve")


# Lengths


@pytest.mark.slow
def test_no_limit_is_asked_for(tmp_path: Path) -> None:
    """T5's tokenizer states 1e30, and no config states positions."""
    saved = save_tokenized(Settings(tokenizer={"model_max_length": 1e30}), tmp_path)
    edit(saved / "sentence_bert_config.json", processing_kwargs={"text": {"max_length": 10**10}})
    with pytest.raises(ResolveError, match=r"states no max length.*set model\.max_length"):
        resolved(saved, tmp_path)
    assert resolved(saved, tmp_path / "set", max_length=20).max_length == 20


@pytest.mark.slow
def test_a_limit_above_the_positions_ends_at_the_positions(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    saved = save_tokenized(Settings(sentence={"max_seq_length": 512}), tmp_path)
    with caplog.at_level(logging.WARNING):
        assert resolved(saved, tmp_path).max_length == POSITIONS
    assert f"512 and has positions for {POSITIONS} tokens" in caplog.text


def test_a_configured_length_above_the_positions_is_refused(tmp_path: Path) -> None:
    saved = save_tokenized(Settings(sentence={"max_seq_length": 512}), tmp_path)
    with pytest.raises(ResolveError, match=f"max_length=100: .* expected 3 to {POSITIONS}"):
        resolved(saved, tmp_path, max_length=100)


@pytest.mark.slow
def test_robertas_offset_is_no_position(tmp_path: Path) -> None:
    saved = save_tokenized(Settings(encoder="roberta", sentence={"max_seq_length": 64}), tmp_path)
    assert resolved(saved, tmp_path).max_length == POSITIONS - 2


# Tokens


def test_no_pad_token_says_how_to_set_one(tmp_path: Path) -> None:
    saved = save_tokenized(Settings(tokenizer={"pad_token": None}), tmp_path)
    with pytest.raises(ResolveError, match=r"no pad token.*pad_token = .*eos_token"):
        resolved(saved, tmp_path)


@pytest.mark.slow
def test_a_text_without_tokens_is_named(tmp_path: Path) -> None:
    source = resolved(save_tokenized(Settings(frame="none"), tmp_path), tmp_path)
    graph = replace(graph_of("bert", "mean"), source_sha256=source.sha256)
    encoder = load(write_bundle(tmp_path / "bundle", source, graph), engine="onnxruntime")
    assert encoder.encode(["a text"]).shape == (1, 32)
    for texts, first in ((["a text", ""], 1), (["a", " \n ", "b", ""], 1), ("", 0)):
        with pytest.raises(ValueError, match=f"text {first} has no tokens"):
            encoder.encode(texts)


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_a_token_without_an_embedding_is_named(
    engine: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    if engine == "openvino":
        pytest.importorskip("openvino")
    many = [{"content": f"<unused{i}>"} for i in range(ROWS)]
    added = ({"content": "<image_soft_token>", "special": True},)
    settings = Settings(added=(*many[: ROWS - 600], *added, {"content": "<later>"}))
    with caplog.at_level(logging.WARNING):
        source = resolved(save_tokenized(settings, tmp_path), tmp_path)
    assert f"embeddings for {ROWS} tokens" in caplog.text
    assert "<image_soft_token>" in caplog.text
    graph = replace(graph_of("bert", "mean"), source_sha256=source.sha256)
    encoder = load(write_bundle(tmp_path / "bundle", source, graph), engine=engine)
    assert encoder.encode(["<unused1> is there", "a text"]).shape == (2, 32)
    with pytest.raises(ValueError, match="text 1 holds '<later>'"):
        encoder.encode(["a text", "a <later> b", ""])
    with pytest.raises(ValueError, match="text 5000 holds '<image_soft_token>'"):
        list(encoder.encode_iter(["a text"] * 5000 + ["<image_soft_token>"]))


@pytest.mark.slow
def test_where_no_token_leads_out_nothing_is_checked(tmp_path: Path) -> None:
    source = resolved(save_tokenized(Settings(), tmp_path), tmp_path)
    assert "embedding_rows" not in (source.assets / "tokenizer_config.json").read_text()
    tokenizer = Tokenizer(source.assets, max_length=source.max_length)
    assert tokenizer.refusal([10**6]) is None


# Files


def _adapter(path: Path) -> None:
    (path / "adapter_config.json").write_text('{"base_model_name_or_path": "/models/base"}')


def _module_outside(path: Path) -> None:
    modules = json.loads((path / "modules.json").read_text())
    shutil.copytree(path / modules[1]["path"], path.parent / "elsewhere")
    modules[1]["path"] = "../elsewhere"
    (path / "modules.json").write_text(json.dumps(modules))


def _linked_module(path: Path) -> None:
    modules = json.loads((path / "modules.json").read_text())
    shutil.move(path / modules[1]["path"], path.parent / "elsewhere")
    (path / modules[1]["path"]).symlink_to(path.parent / "elsewhere")


def _shard_outside(path: Path) -> None:
    shutil.move(path / "model.safetensors", path.parent / "model.safetensors")
    index = {"metadata": {}, "weight_map": {"a": "../model.safetensors"}}
    (path / "model.safetensors.index.json").write_text(json.dumps(index))


def _tokenizer_outside(path: Path) -> None:
    edit(path / "sentence_bert_config.json", tokenizer_name_or_path=str(path.parent / "other"))


def _code_elsewhere(path: Path) -> None:
    edit(path / "config.json", auto_map={"AutoModel": "someone/code--modeling.Model"})


def _tokenizer_code_elsewhere(path: Path) -> None:
    edit(path / "tokenizer_config.json", auto_map={"AutoTokenizer": [None, "a/b--tok.Fast"]})


def _nested_code_elsewhere(path: Path) -> None:
    edit(path / "config.json", text_config={"auto_map": {"AutoConfig": "a/b--config.Config"}})


def _typed(path: Path, kind: str) -> None:
    modules = json.loads((path / "modules.json").read_text())
    modules[1]["type"] = kind
    (path / "modules.json").write_text(json.dumps(modules))


def _hidden_module(path: Path) -> None:
    modules = json.loads((path / "modules.json").read_text())
    shutil.move(path / modules[1]["path"], path / ".pooling")
    modules[1]["path"] = ".pooling"
    (path / "modules.json").write_text(json.dumps(modules))


def _arguments_elsewhere(path: Path) -> None:
    edit(path / "sentence_bert_config.json", model_args={"cache_dir": "/models/other"})


def _nested_arguments_elsewhere(path: Path) -> None:
    edit(path / "sentence_bert_config.json", model_args={"adapter_kwargs": {"path": ["../lora"]}})


def _tokenizer_file_elsewhere(path: Path) -> None:
    shutil.copyfile(path / "tokenizer.json", path.parent / "other.json")
    edit(path / "tokenizer_config.json", tokenizer_file=str(path.parent / "other.json"))


def _weights_elsewhere(path: Path) -> None:
    shutil.copyfile(path / "model.safetensors", path.parent / "other.safetensors")
    edit(path / "config.json", transformers_weights="../other.safetensors")


def _link_to_itself(path: Path) -> None:
    modules = json.loads((path / "modules.json").read_text())
    shutil.rmtree(path / modules[1]["path"])
    (path / modules[1]["path"]).symlink_to(modules[1]["path"])


def _no_name(path: Path) -> None:
    modules = json.loads((path / "modules.json").read_text())
    modules[1]["path"] = "a\0b"
    (path / "modules.json").write_text(json.dumps(modules))


def _no_type(path: Path) -> None:
    (path / "modules.json").write_text('[{"idx": 0, "name": "0", "path": ""}]')


def _no_list(path: Path) -> None:
    (path / "modules.json").write_text('{"0": "Transformer"}')


def _dense(path: Path, weights: str | None) -> None:
    modules = json.loads((path / "modules.json").read_text())
    kind = modules[1]["type"].replace("pooling", "dense").replace("Pooling", "Dense")
    modules.append({"idx": 9, "name": "9", "path": "2_Dense", "type": kind})
    (path / "modules.json").write_text(json.dumps(modules))
    (path / "2_Dense").mkdir()
    (path / "2_Dense" / "config.json").write_text('{"in_features": 32, "out_features": 8}')
    if weights is not None:
        (path / "2_Dense" / weights).write_bytes(b"weights")


REFUSED: dict[str, tuple[Change, str]] = {
    "an adapter": (_adapter, "an adapter over the weights of '/models/base'.*merge first"),
    "a module outside": (_module_outside, r"modules\.json names '\.\./elsewhere', which leads out"),
    "a module that is a link": (_linked_module, "modules.json names '1_Pooling', which leads out"),
    "a shard outside": (_shard_outside, r"names '\.\./model\.safetensors', which leads out"),
    "a tokenizer outside": (_tokenizer_outside, "sentence_bert_config.json names .* leads out"),
    "code of another repository": (
        _code_elsewhere,
        r"config\.json names 'someone/code--modeling\.Model', code that is not in the model's",
    ),
    "a tokenizer's code of another repository": (
        _tokenizer_code_elsewhere,
        r"tokenizer_config\.json names 'a/b--tok\.Fast', code that is not",
    ),
    "a part's code of another repository": (
        _nested_code_elsewhere,
        r"config\.json names 'a/b--config\.Config', code that is not",
    ),
    "a module of another repository": (
        lambda path: _typed(path, "a/b--pool.Pooling"),
        r"module 1 is Pooling \(a/b--pool\.Pooling\).*knows no such module",
    ),
    "a module of an installed package": (
        lambda path: _typed(path, "installed.models.Pooling"),
        r"module 1 is Pooling \(installed\.models\.Pooling\).*knows no such module",
    ),
    "a hidden module": (_hidden_module, r"modules\.json names '\.pooling': what begins with a dot"),
    "arguments that lead outside": (
        _arguments_elsewhere,
        r"sentence_bert_config\.json names '/models/other', which leads out",
    ),
    "nested arguments that lead outside": (
        _nested_arguments_elsewhere,
        r"sentence_bert_config\.json names '\.\./lora', which leads out",
    ),
    "a tokenizer's file outside": (
        _tokenizer_file_elsewhere,
        r"tokenizer_config\.json \(tokenizer_file\) names .*other\.json', which leads out",
    ),
    "weights outside": (
        _weights_elsewhere,
        r"config\.json \(transformers_weights\) names '\.\./other\.safetensors', which leads out",
    ),
    "a module that links to itself": (_link_to_itself, "names '1_Pooling', which leads out"),
    "a module of no possible name": (_no_name, r"names 'a\\x00b', which leads out"),
    "modules nested too deeply": (
        lambda path: (path / "modules.json").write_text("[" * 100_000),
        "does not load as a Sentence Transformer",
    ),
    "a module without a type": (_no_type, "entry 0 is .*expected an object with type and path"),
    "modules that are no list": (_no_list, "no list of modules"),
    "a Dense without weights": (
        lambda path: _dense(path, None),
        r"2_Dense: no model\.safetensors there.*SentenceTransformer\.save",
    ),
    "a Dense with unsafe weights": (
        lambda path: _dense(path, "pytorch_model.bin"),
        r"2_Dense/pytorch_model\.bin: weights in a format that can run code",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_directory_is_refused_with_the_remedy(name: str, tmp_path: Path) -> None:
    change, words = REFUSED[name]
    saved = save_tokenized(Settings(), tmp_path)
    change(saved)
    with pytest.raises(PipelineError, match=words) as caught:
        resolved(saved, tmp_path)
    assert "\n" not in str(caught.value)


def test_paths_that_training_left_behind_are_no_references(tmp_path: Path) -> None:
    """transformers writes where it read from; nobody opens that again."""
    saved = save_tokenized(Settings(), tmp_path)
    (tmp_path / "special_tokens_map.json").write_text("{}")
    left = {
        "name_or_path": str(tmp_path),
        "special_tokens_map_file": str(tmp_path / "special_tokens_map.json"),
        "tokenizer_file": "/home/me/.cache/huggingface/tokenizer.json",
    }
    edit(saved / "tokenizer_config.json", **left)
    edit(saved / "config.json", _name_or_path=str(tmp_path))
    refuse_references(saved, "here")


def test_a_directory_of_other_bytes_is_told_at_once() -> None:
    """Reports name it, and they are UTF-8: the run would end when it writes them."""
    config = ModelConfig(name="tiny", directory="/data/\udcff")
    with pytest.raises(ConfigError, match=r"^directory='/data/\\udcff' is not UTF-8.*rename"):
        _check_texts(config)
