"""What no graph can express stops by the module's name, before anything is traced."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from architectures import make_tokenizer
from families import FAMILIES, modules, save_family

from pipeline.config import ModelConfig
from pipeline.contracts import SourceModel
from pipeline.errors import ExportError, ResolveError
from pipeline.stages.resolve import resolve
from pipeline.text.datasets import Dataset

Resolve = Callable[..., SourceModel]


@pytest.fixture
def copy(tiny_dir: Path, tmp_path: Path) -> Path:
    return shutil.copytree(tiny_dir, tmp_path / "model")


@pytest.fixture
def run(copy: Path, tmp_path: Path) -> Resolve:
    def run_with(**settings: Any) -> SourceModel:
        return resolve(
            ModelConfig(name="tiny", directory=str(copy), **settings), tmp_path / "resolved"
        )

    return run_with


def set_modules(model: Path, change: Callable[[list[dict[str, Any]]], None]) -> None:
    path = model / "modules.json"
    listed = json.loads(path.read_text())
    change(listed)
    path.write_text(json.dumps(listed))


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("sentence_transformers.models.BoW", "takes counts of words"),
        ("sentence_transformers.models.WordEmbeddings", "no tokenizer.json"),
        ("sentence_transformers.models.CNN", "batched with"),
        ("sentence_transformers.models.LSTM", "a length of its own"),
        ("sentence_transformers.models.Asym", "several paths"),
        ("sentence_transformers.models.Router", "several paths"),
        ("sentence_transformers.models.CLIPModel", "takes images"),
        ("sentence_transformers.models.StaticEmbedding", "offsets"),
        ("sentence_transformers.models.WordWeights", "a table"),
        ("sentence_transformers.models.WeightedLayerPooling", "every layer"),
        ("sentence_transformers.models.Tomorrow", "knows no such module"),
        ("custom_st.Transformer", "knows no such module"),
    ],
)
def test_a_module_that_no_graph_expresses_is_named_with_the_reason(
    kind: str, reason: str, run: Resolve, copy: Path
) -> None:
    set_modules(copy, lambda listed: listed[0].update(type=kind))
    name = kind.rpartition(".")[2]
    with pytest.raises(ExportError, match=rf"module 0 is {name} \({kind}\).*{reason}"):
        run(trust_remote_code=True)


@pytest.mark.slow
def test_the_names_of_older_saves_are_known(run: Resolve, copy: Path) -> None:
    def older(listed: list[dict[str, Any]]) -> None:
        for module in listed:
            name = module["type"].rpartition(".")[2]
            module["type"] = f"sentence_transformers.models.{name}"

    set_modules(copy, older)
    assert run().modules == ("Transformer", "Pooling", "Normalize")


def test_a_chain_without_pooling_is_refused(run: Resolve, copy: Path) -> None:
    set_modules(copy, lambda listed: listed.__delitem__(slice(1, None)))
    with pytest.raises(ExportError, match=r"no Pooling among its modules \(Transformer\)"):
        run()


def test_weights_counted_from_the_left_of_padding_are_refused(
    sample: Dataset, tmp_path: Path
) -> None:
    tokenizer = make_tokenizer(sample.calibration)
    saved = save_family(FAMILIES["sgpt"], tokenizer, tmp_path)
    settings = json.loads((saved / "tokenizer_config.json").read_text())
    (saved / "tokenizer_config.json").write_text(json.dumps(settings | {"padding_side": "left"}))
    with pytest.raises(ExportError, match=r"module 1, Pooling, is weightedmean.*batched with"):
        resolve(ModelConfig(name="x", directory=str(saved)), tmp_path / "resolved")


def add_dense(model: Path) -> Path:
    """Put a Dense behind the model's pooling and return its directory."""
    dense = modules().Dense(32, 8, activation_function=torch.nn.Tanh())
    (model / "2_Dense").mkdir()
    dense.save(str(model / "2_Dense"))
    entry = {
        "idx": 2,
        "name": "dense",
        "path": "2_Dense",
        "type": "sentence_transformers.models.Dense",
    }
    set_modules(model, lambda listed: listed.insert(2, entry))
    return model / "2_Dense"


@pytest.mark.slow
def test_an_activation_that_would_load_as_another_is_refused(run: Resolve, copy: Path) -> None:
    path = add_dense(copy) / "config.json"
    assert run().dimension == 8
    settings = json.loads(path.read_text())
    path.write_text(json.dumps(settings | {"activation_function": "mine.Swish"}))
    with pytest.raises(ExportError, match=r"module 2, Dense, has the activation mine\.Swish"):
        run()


@pytest.mark.slow
def test_weights_of_a_module_that_can_run_code_are_refused(run: Resolve, copy: Path) -> None:
    dense = add_dense(copy)
    torch.save({}, dense / "pytorch_model.bin")
    assert run().dimension == 8  # not read: the safetensors beside it are
    (dense / "model.safetensors").unlink()
    with pytest.raises(ResolveError, match=r"2_Dense/pytorch_model\.bin: weights in a format"):
        run()
