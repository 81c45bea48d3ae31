"""What is published was opened before: as whoever serves it opens it, with the vectors it had."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import bundles
import numpy as np
import pytest

from pipeline.config import ModelConfig
from pipeline.contracts import OnnxModel, SourceModel
from pipeline.errors import PublishError
from pipeline.runtime import load
from pipeline.stages.resolve import resolve

MakeTiny = Callable[..., Path]


@pytest.fixture(scope="module")
def prompted(make_tiny: MakeTiny, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Return a function that gives the tiny model these settings of Sentence Transformers."""

    def make(**settings: Any) -> Path:
        model = tmp_path_factory.mktemp("prompted") / "model"
        shutil.copytree(make_tiny(), model)
        path = model / "config_sentence_transformers.json"
        path.write_text(json.dumps(json.loads(path.read_text("utf-8")) | settings), "utf-8")
        return model

    return make


@pytest.mark.slow
@pytest.mark.parametrize(
    ("settings", "given"),
    [
        (
            {
                "prompts": {"query": "query: ", "passage": ""},
                "default_prompt_name": "passage",
            },
            {},
        ),
        ({"prompts": {"query": "", "document": ""}, "default_prompt_name": "query"}, {}),
        ({"prompts": {"query": "query: "}}, {"default_prompt": "document"}),
        ({"prompts": {"a": "a: "}}, {"prompts": {"a": ""}, "default_prompt": "a"}),
    ],
)
def test_an_empty_prompt_is_a_prompt(
    settings: dict[str, Any],
    given: dict[str, Any],
    prompted: Callable[..., Path],
    tiny_fp32: OnnxModel,
    tmp_path: Path,
) -> None:
    from sentence_transformers import SentenceTransformer

    model = prompted(**settings)
    source = resolve(ModelConfig(name="tiny", directory=str(model), **given), tmp_path / "resolve")
    graph = replace(tiny_fp32, source_sha256=source.sha256)
    bundle = bundles.publish_tiny(source, graph, tmp_path / "work", tmp_path / "tiny" / "fp32")
    encoder = load(bundle, "onnxruntime")
    theirs = SentenceTransformer(str(model), device="cpu", prompts=given.get("prompts"))
    for name in (given.get("default_prompt"), *settings["prompts"]):
        ours = encoder.encode(["a text"], prompt_name=name)
        expected = theirs.encode(["a text"], prompt_name=name)
        np.testing.assert_allclose(ours, expected, atol=1e-5)


def with_asset(source: SourceModel, directory: Path, name: str, text: str) -> SourceModel:
    """Return the source with one of its assets changed."""
    assets = directory / "assets"
    shutil.copytree(source.assets, assets)
    (assets / name).write_text(text, "utf-8")
    return replace(source, assets=assets)


def swapped_words(source: SourceModel) -> str:
    """Return the tokenizer's file with ids of its words in reverse."""
    data = json.loads((source.assets / "tokenizer.json").read_text("utf-8"))
    vocabulary = data["model"]["vocab"]
    words = [word for word in vocabulary if not word.startswith("[")]
    ids = [vocabulary[word] for word in words]
    vocabulary.update(zip(words, reversed(ids), strict=True))
    return json.dumps(data)


Break = Callable[[SourceModel, Path], SourceModel]

BROKEN: dict[str, tuple[Break, str]] = {
    "another tokenizer": (
        lambda source, directory: with_asset(
            source, directory, "tokenizer.json", swapped_words(source)
        ),
        "gives other vectors in onnxruntime than validation saw",
    ),
    "a default prompt that is none": (
        lambda source, _: replace(source, prompts={}, default_prompt="passage"),
        "cannot be loaded: manifest.json: model.default_prompt 'passage' is not among",
    ),
    "another default prompt": (
        lambda source, _: replace(source, prompts={"a": "word " * 9}, default_prompt="a"),
        "gives other vectors in onnxruntime than validation saw",
    ),
    "a tokenizer that is none": (
        lambda source, directory: with_asset(source, directory, "tokenizer.json", "{}"),
        "cannot be loaded: cannot read the tokenizer",
    ),
    "a limit of none": (
        lambda source, _: replace(source, max_length=0),
        "cannot be loaded: manifest.json: model.max_length is 0",
    ),
}


@pytest.mark.many
@pytest.mark.parametrize("how", BROKEN)
def test_what_does_not_serve_is_not_published(
    how: str,
    tiny_source: SourceModel,
    tiny_fp32: OnnxModel,
    tiny_bundle: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    proof = bundles.make_proof(tiny_source, tiny_fp32)
    monkeypatch.setattr(bundles, "make_proof", lambda *_: proof)
    target = tmp_path / "tiny" / "fp32"
    shutil.copytree(tiny_bundle, target)
    before = (target / "manifest.json").read_bytes()
    break_, words = BROKEN[how]
    with pytest.raises(PublishError) as caught:
        bundles.publish_tiny(break_(tiny_source, tmp_path), tiny_fp32, tmp_path / "work", target)
    message = str(caught.value)
    assert words in message
    assert "nothing was published" in message
    assert "\n" not in message
    assert (target / "manifest.json").read_bytes() == before
