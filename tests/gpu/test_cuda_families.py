"""The graph for CUDA of every family on a real GPU, which has other kernels than the CPU."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from architectures import COMMON, make_tokenizer
from families import FAMILIES, Family, encoder_of, modules, save_family, skip_where_older

from pipeline.config import Exporter, ModelConfig
from pipeline.contracts import OnnxModel, SourceModel
from pipeline.engines import cuda
from pipeline.engines.onnxruntime import OnnxRuntimeEncoder, has_cuda
from pipeline.measure.speed.profile import count_kernels
from pipeline.runtime.encoder import TextEncoder
from pipeline.stages.export import export
from pipeline.stages.fuse import fuse
from pipeline.stages.resolve import resolve
from pipeline.text.datasets import Dataset
from pipeline.vectors import FloatArray, row_cosines

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not has_cuda(), reason="ONNX Runtime has no CUDA here"),
    pytest.mark.skipif(cuda.missing() is not None, reason=str(cuda.missing())),
]

LONG = "long"
"""A BERT of 1,024 tokens with heads of 64: ONNX Runtime has flash attention from 513 tokens on."""

LONGEST, WIDTH = 1024, 128
MODELS = FAMILIES | {
    LONG: replace(
        FAMILIES["minilm"],
        settings=COMMON
        | {"max_position_embeddings": LONGEST, "hidden_size": WIDTH, "num_attention_heads": 2},
        chain=lambda: [modules().Pooling(WIDTH, "mean"), modules().Normalize()],
    )
}


@dataclass(frozen=True, kw_only=True)
class Opened:
    """A family on the GPU and the texts' vectors by Sentence Transformers in fp32 on the CPU."""

    family: Family
    source: SourceModel
    fused: OnnxModel
    engine: OnnxRuntimeEncoder
    texts: Sequence[str]
    expected: FloatArray

    def encoder(self) -> TextEncoder:
        return encoder_of(self.source, self.engine)


@pytest.fixture(scope="module", params=MODELS)
def opened(
    request: pytest.FixtureRequest,
    sample: Dataset,
    calibration_texts: Sequence[str],
    tmp_path_factory: pytest.TempPathFactory,
) -> Opened:
    name: str = request.param
    family = MODELS[name]
    skip_where_older(family)
    root = tmp_path_factory.mktemp(name)
    directory = save_family(family, make_tokenizer(sample.calibration), root)
    if name == LONG:
        _lengthen(directory)
    source = resolve(ModelConfig(name=name, directory=str(directory)), root / "resolve")
    fp32 = export(source, Exporter.torch, calibration_texts, root / "export")
    fused = fuse(fp32, source, calibration_texts, root / "fuse")
    words = " ".join(sample.evaluation).split()
    most = LONGEST if name == LONG else 64
    texts = ["", *(" ".join(words[:n]) for n in range(1, most, most // 20))]
    from sentence_transformers import SentenceTransformer

    kwargs: dict[str, Any] = {"dtype": "float32"}
    loaded = SentenceTransformer(str(directory), device="cpu", model_kwargs=kwargs).float()
    return Opened(
        family=family,
        source=source,
        fused=fused,
        engine=OnnxRuntimeEncoder(fused.path, cuda=True),
        texts=texts,
        expected=loaded.encode(texts, batch_size=1),
    )


def _lengthen(directory: Path) -> None:
    for path in (directory / "sentence_bert_config.json", directory / "tokenizer_config.json"):
        if path.is_file():
            said = json.loads(path.read_text("utf-8"))
            limits = {"max_seq_length", "model_max_length"} & set(said)
            path.write_text(json.dumps(said | dict.fromkeys(limits, LONGEST)), "utf-8")


def test_every_length_and_padding(opened: Opened) -> None:
    """Each text alone, all in one padded batch, and some padded to the limit; twice for graphs."""
    encoder, source = opened.encoder(), opened.source
    rows = encoder.tokenizer.rows([source.prefix + text for text in opened.texts])
    assert max(len(row.ids) for row in rows) == source.max_length
    wider = encoder.tokenizer.pad(rows[:4], length=source.max_length)
    for _ in range(3):
        together = opened.engine.encode(encoder.tokenizer.pad(rows))
        for observed in (together, encoder.encode(opened.texts, 1), encoder.encode(opened.texts)):
            assert np.isfinite(observed).all()
            assert row_cosines(opened.expected, observed).min() >= 0.9999
        assert row_cosines(opened.expected[:4], opened.engine.encode(wider)).min() >= 0.9999


def test_the_whole_graph_runs_on_the_gpu_and_is_captured(opened: Opened) -> None:
    tokenizer = opened.encoder().tokenizer
    rows = tokenizer.rows(opened.texts)
    seen = count_kernels(opened.fused.path, tokenizer.pad(rows))
    heavy = {"Attention", "Gemm", "MatMul", "MultiHeadAttention", "SkipLayerNormalization"}
    assert not heavy & set(seen["elsewhere"]), seen
    assert seen["operators"].get("Attention", 0) == opened.family.fused
    bound = opened.engine.bound
    assert bound is not None
    for _ in range(3):
        opened.engine.encode(tokenizer.pad(rows[:2]))
    assert bound.graphs > 0, f"no CUDA graph; not on the GPU: {seen['elsewhere']}"
