"""Vectors that others computed of real models and published: ours are theirs.

The figures and where they come from are in the JSON files beside this one. all-MiniLM-L6-v2 is
judged wherever its package is installed, all-mpnet-base-v2 where ``PIPELINE_WEIGHTS`` names a
directory that has it as ``mpnet/``; ``pytest -m hub`` fetches the others.
"""

import json
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from families import encoder_of
from omegaconf import OmegaConf

from pipeline.config import CONF_DIR, Exporter, ModelConfig, PrecisionConfig
from pipeline.contracts import OnnxModel, SourceModel
from pipeline.engines.onnxruntime import OnnxRuntimeEncoder
from pipeline.stages.export import export
from pipeline.stages.quantize import quantize
from pipeline.stages.resolve import resolve
from pipeline.text.datasets import Dataset
from pipeline.vectors import FloatArray, row_cosines

HERE = Path(__file__).parent
TEI: Mapping[str, Any] = json.loads((HERE / "text_embeddings_inference.json").read_text())
FASTEMBED: Mapping[str, Any] = json.loads((HERE / "fastembed.json").read_text())

MINILM = "sentence-transformers/all-MiniLM-L6-v2"
MPNET = "sentence-transformers/all-mpnet-base-v2"
NATIVE = {"Alibaba-NLP/gte-multilingual-base": "alibaba-nlp-community/gte-multilingual-base"}
"""The same weights in the form that needs no code from the checkpoint."""
LONG = {"nomic-ai/nomic-embed-text-v1"}
"""Without a choice in ``conf/model/``, and made for more tokens than an export is checked at."""


def choice(hub_id: str) -> ModelConfig:
    """Return the choice in ``conf/model/`` for a hub id, or one that only names it."""
    for path in sorted((CONF_DIR / "model").glob("*.yaml")):
        merged = OmegaConf.merge(OmegaConf.structured(ModelConfig), OmegaConf.load(path))
        if merged.hub_id == hub_id:
            found = OmegaConf.to_object(merged)
            assert isinstance(found, ModelConfig)
            return found
    return ModelConfig(
        name=hub_id.rpartition("/")[2], hub_id=hub_id, max_length=512 if hub_id in LONG else None
    )


def cases(figures: Mapping[str, Any]) -> list[Any]:
    """Return each model with its figures, marked by what they take: the hub, one more export."""

    def marks(entry: Mapping[str, Any]) -> Sequence[pytest.MarkDecorator]:
        if entry["model"] not in (MINILM, MPNET):
            return [pytest.mark.hub]
        return [pytest.mark.whole] if entry.get("pooling") else []

    return [
        pytest.param(
            entry,
            id="-".join(filter(None, (entry["model"].rpartition("/")[2], entry.get("pooling")))),
            marks=marks(entry),
        )
        for entry in figures["models"]
    ]


def describe(model: str) -> ModelConfig:
    """Say where a model's weights are: a package, a directory, or the hub."""
    config = choice(NATIVE.get(model, model))
    if model == MPNET:
        place = Path(os.environ.get("PIPELINE_WEIGHTS", "")) / "mpnet"
        if not (place / "modules.json").is_file():
            pytest.skip("all-mpnet-base-v2 is not here: PIPELINE_WEIGHTS=DIR, with it in DIR/mpnet")
        config.directory = str(place)
    return config


Made = tuple[SourceModel, OnnxModel]


@pytest.fixture(scope="module")
def make(
    request: pytest.FixtureRequest,
    calibration_texts: Sequence[str],
    tmp_path_factory: pytest.TempPathFactory,
) -> Callable[[str, str | None], Made]:
    """Return a function that gives a model and its fp32 graph: ``(model, pooling of its own)``."""

    @cache
    def run(model: str, pooling: str | None) -> Made:
        if model == MINILM and pooling is None:
            request.getfixturevalue("minilm_dir")  # skips without the package
            return request.getfixturevalue("minilm_source"), request.getfixturevalue("minilm_fp32")
        root, config = tmp_path_factory.mktemp("outside"), describe(model)
        if pooling is not None:
            place = config.directory or request.getfixturevalue("minilm_dir")
            config.directory = str(with_pooling(Path(place), pooling, root / "model"))
        source = resolve(config, root / "resolve")
        return source, export(source, Exporter.torch, calibration_texts, root / "export")

    return run


def with_pooling(directory: Path, pooling: str, to: Path) -> Path:
    """Copy a model and have it pool another way."""
    shutil.copytree(directory, to, ignore=shutil.ignore_patterns("*.onnx", "onnx", "*.bin"))
    config = to / "1_Pooling" / "config.json"
    settings = json.loads(config.read_text())
    width = settings.get("embedding_dimension") or settings["word_embedding_dimension"]
    legacy = {"word_embedding_dimension": width, f"pooling_mode_{pooling}_token": True}
    config.write_text(json.dumps(legacy))
    return to


def encode(made: Made, texts: Sequence[str], prompt: str = "") -> FloatArray:
    """Return what the graph makes of texts behind ``prompt``, never the model's default one."""
    source, graph = made
    return encoder_of(source, OnnxRuntimeEncoder(graph.path)).encode(texts, prompt=prompt)


@pytest.mark.slow
@pytest.mark.parametrize("judge", cases(TEI))
def test_text_embeddings_inference_returns_the_same_vectors(
    judge: Mapping[str, Any], make: Callable[[str, str | None], Made]
) -> None:
    """Cosine above 0.999 is its own tolerance; ours is stricter where both ran in fp32 on a CPU."""
    observed = encode(make(judge["model"], judge["pooling"]), TEI["texts"])
    cosines = row_cosines(np.array(judge["vectors"], np.float32), observed)
    assert cosines.min() > 0.999
    if judge["model"] in (MINILM, MPNET):
        assert cosines.min() > 0.99999


@pytest.mark.slow
@pytest.mark.parametrize("judge", cases(FASTEMBED))
def test_fastembed_returns_the_same_first_dimensions(
    judge: Mapping[str, Any], make: Callable[[str, str | None], Made]
) -> None:
    observed = encode(make(judge["model"], None), [FASTEMBED["text"]], judge.get("prompt", ""))
    first, expected = observed[0, :5], np.array(judge["first"])
    if judge.get("up_to_a_factor"):  # one of the two normalizes, the other does not
        first = first * (first @ expected) / (first @ first)
    np.testing.assert_allclose(first, expected, atol=1e-3 * max(1.0, np.abs(expected).max()))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("preset", "lowest"),
    [
        ("int8_fast", 0.997),
        pytest.param("int8", 0.998, marks=pytest.mark.whole),
        pytest.param("int8_max", 0.999, marks=pytest.mark.whole),
    ],
)
def test_int8_keeps_the_vectors_of_both(
    preset: str,
    lowest: float,
    make: Callable[[str, str | None], Made],
    sample: Dataset,
    tmp_path: Path,
) -> None:
    """Short texts are where int8 keeps least; int8_max is within the judges' tolerance."""
    source, fp32 = make(MINILM, None)
    config = replace(load_precision(preset), reconstruction_steps=0)  # minutes, for little
    graphs = quantize(fp32, source, config, sample.calibration, tmp_path / "int8")
    made = (source, graphs.portable)
    judge = next(entry for entry in TEI["models"] if entry["model"] == MINILM)
    cosines = row_cosines(np.array(judge["vectors"], np.float32), encode(made, TEI["texts"]))
    assert cosines.min() > lowest
    (first,) = (entry["first"] for entry in FASTEMBED["models"] if entry["model"] == MINILM)
    observed = encode(made, [FASTEMBED["text"]])[:, :5]
    assert row_cosines(np.array([first], np.float32), observed).item() > 0.99


def load_precision(preset: str) -> PrecisionConfig:
    """Return a choice in ``conf/precision/``."""
    layers = [OmegaConf.structured(PrecisionConfig)]
    for name in dict.fromkeys(["int8", preset]):
        settings = OmegaConf.load(CONF_DIR / "precision" / f"{name}.yaml")
        layers.append({key: value for key, value in settings.items() if key != "defaults"})
    found = OmegaConf.to_object(OmegaConf.merge(*layers))
    assert isinstance(found, PrecisionConfig)
    return found
