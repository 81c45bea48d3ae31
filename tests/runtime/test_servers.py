"""What existing servers and libraries make of a bundle: the vectors of load().encode()."""

import json
import random
import shutil
from collections.abc import Sequence
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from bundles import manifest_of, publish_tiny
from light_bundle import write_bundle
from tokenizers import Tokenizer as FastTokenizer

from pipeline.contracts import Graphs, OnnxModel, SourceModel
from pipeline.errors import PublishError
from pipeline.runtime import load
from pipeline.runtime.sentence_transformer import as_sentence_transformer
from pipeline.vectors import row_cosines

CLOSE = 0.9999

FloatArray = npt.NDArray[np.float32]


@pytest.fixture(scope="module")
def texts(evaluation_texts: Sequence[str]) -> list[str]:
    """Texts of every length, some of them over the model's limit."""
    picker = random.Random(0)
    long = [" ".join(picker.choices(evaluation_texts, k=20)) for _ in range(4)]
    return ["", " ", "short", *evaluation_texts[:60], *long]


@pytest.fixture(scope="module", params=["fp32", "int8"])
def bundle(
    request: pytest.FixtureRequest,
    tiny_source: SourceModel,
    tiny_fp32: OnnxModel,
    tiny_int8: Graphs,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """The tiny model's bundle in fp32 and in int8."""
    graph = tiny_fp32 if request.param == "fp32" else tiny_int8.portable
    return write_bundle(tmp_path_factory.mktemp(request.param) / "bundle", tiny_source, graph)


@pytest.fixture(scope="module")
def expected(bundle: Path, texts: list[str]) -> FloatArray:
    """The vectors that everybody has to give."""
    vectors: FloatArray = load(bundle, "onnxruntime").encode(texts)
    return vectors


def test_fastembed(bundle: Path, texts: list[str], expected: FloatArray) -> None:
    """docs/servers.md has this call."""
    fastembed = pytest.importorskip("fastembed")
    from fastembed.common.model_description import ModelSource, PoolingType

    fastembed.TextEmbedding.add_custom_model(
        model=str(bundle),
        pooling=PoolingType.DISABLED,
        normalization=False,
        sources=ModelSource(hf="unused"),
        dim=expected.shape[1],
        model_file="model.onnx",
    )
    model = fastembed.TextEmbedding(str(bundle), specific_model_path=str(bundle), cuda=False)
    vectors = np.stack(list(model.embed(texts, batch_size=16)))
    assert row_cosines(vectors, expected).min() >= CLOSE


def test_tokenizers_and_onnxruntime(bundle: Path, texts: list[str], expected: FloatArray) -> None:
    """Who reads tokenizer.json needs no other setting: docs/servers.md has these lines."""
    import onnxruntime

    tokenizer = FastTokenizer.from_file(str(bundle / "tokenizer.json"))
    session = onnxruntime.InferenceSession(str(bundle / "model.onnx"))
    vectors = []
    for start in range(0, len(texts), 16):
        rows = tokenizer.encode_batch(texts[start : start + 16])
        feed = {
            "input_ids": np.array([row.ids for row in rows], np.int64),
            "attention_mask": np.array([row.attention_mask for row in rows], np.int64),
            "token_type_ids": np.array([row.type_ids for row in rows], np.int64),
        }
        wanted = {value.name for value in session.get_inputs()}
        feed = {name: array for name, array in feed.items() if name in wanted}
        vectors.append(session.run(["sentence_embedding"], feed)[0])
    assert row_cosines(np.concatenate(vectors), expected).min() >= CLOSE
    assert len(tokenizer.encode("short").ids) < 10


def test_transformers_tokenizer(bundle: Path, texts: list[str]) -> None:
    transformers: Any = import_module("transformers")
    tokenizer = transformers.AutoTokenizer.from_pretrained(str(bundle))
    encoder = load(bundle, "onnxruntime")
    ours = encoder.tokenizer.pad(encoder.tokenizer.rows(texts))
    theirs = tokenizer(texts, padding=True, truncation=True, return_tensors="np")
    assert ours.input_ids.shape[1] == encoder.tokenizer.max_length
    np.testing.assert_array_equal(ours.input_ids, theirs["input_ids"])
    np.testing.assert_array_equal(ours.attention_mask, theirs["attention_mask"])


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_sentence_transformers(
    engine: str, bundle: Path, texts: list[str], expected: FloatArray
) -> None:
    if engine == "openvino":
        pytest.importorskip("openvino")
    model = as_sentence_transformer(bundle, engine)
    vectors = model.encode(texts, batch_size=16)
    assert row_cosines(vectors, expected).min() >= (CLOSE if engine == "onnxruntime" else 0.999)
    assert model.get_embedding_dimension() == expected.shape[1]
    assert model.max_seq_length == 48
    assert model.similarity(vectors[:2], vectors[:3]).shape == (2, 3)
    np.testing.assert_array_equal(model.encode(texts[2]), model.encode([texts[2]])[0])


def test_sentence_transformers_takes_the_prompts(bundle: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(bundle, tmp_path / "bundle")
    manifest = json.loads((bundle / "manifest.json").read_text())
    manifest["model"] |= {"prompts": {"query": "ask: "}, "default_prompt": "query"}
    (copy / "manifest.json").write_text(json.dumps(manifest))
    shutil.rmtree(copy / "engines", ignore_errors=True)  # of the manifest as it was
    model, encoder = as_sentence_transformer(copy), load(copy)
    for method in ("encode", "encode_query", "encode_document"):
        vectors = getattr(model, method)(["some", "texts"])
        np.testing.assert_allclose(vectors, getattr(encoder, method)(["some", "texts"]), atol=1e-6)


def test_plain_sentence_transformers(
    tiny_source: SourceModel, tiny_fp32: OnnxModel, texts: list[str], tmp_path: Path
) -> None:
    """With its weights in it (publish.weights=true) a bundle is a Sentence Transformer."""
    from sentence_transformers import SentenceTransformer

    target = tmp_path / "bundle"
    bundle = publish_tiny(tiny_source, tiny_fp32, tmp_path / "work", target, with_weights=True)
    assert load(bundle, "onnxruntime").dimension == 32
    assert "model.safetensors" in manifest_of(bundle)["files"]
    assert (bundle / "model.safetensors").stat().st_nlink == 1
    model = SentenceTransformer(str(bundle), device="cpu", local_files_only=True)
    expected = load(bundle, "onnxruntime").encode(texts)
    assert row_cosines(model.encode(texts), expected).min() >= CLOSE


def test_weights_that_changed_are_not_published(
    tiny_source: SourceModel, tiny_fp32: OnnxModel, tmp_path: Path
) -> None:
    other = replace(tiny_source, weights={"model.safetensors": "0" * 64})
    with pytest.raises(PublishError, match=r"model\.safetensors changed since it was read"):
        publish_tiny(other, tiny_fp32, tmp_path / "work", tmp_path / "b", with_weights=True)
    assert not (tmp_path / "b").exists()


def test_backend_onnx_refuses_rather_than_pool_twice(bundle: Path) -> None:
    """It pools token embeddings, which the graph does not give out: docs/servers.md."""
    pytest.importorskip("optimum.onnxruntime")
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(
        str(bundle), backend="onnx", model_kwargs={"provider": "CPUExecutionProvider"}
    )
    with pytest.raises(KeyError, match="last_hidden_state"):
        model.encode(["text"])


def test_what_text_embeddings_inference_reads(bundle: Path, tiny_source: SourceModel) -> None:
    """The keys its router and its ONNX Runtime backend fail without."""

    def read(name: str) -> dict[str, Any]:
        content: dict[str, Any] = json.loads((bundle / name).read_text("utf-8"))
        return content

    pooling = read("1_Pooling/config.json")
    assert pooling["pooling_mode_mean_tokens"] is True
    for mode in ("cls_token", "max_tokens", "mean_sqrt_len_tokens"):
        assert pooling[f"pooling_mode_{mode}"] is False
    assert read("sentence_bert_config.json")["max_seq_length"] == tiny_source.max_length
    config = read("config.json")
    assert {"model_type", "architectures", "hidden_size", "num_hidden_layers"} <= set(config)
    assert {"max_position_embeddings", "pad_token_id"} <= set(config)
    assert read("special_tokens_map.json")["pad_token"]
    assert read("tokenizer.json")["truncation"]["max_length"] == tiny_source.max_length


def test_limits_of_the_source_are_replaced_by_the_model_s(tiny_source: SourceModel) -> None:
    """all-MiniLM-L6-v2's tokenizer.json cuts and pads at 128, the tiny model's limit is 48."""
    source = json.loads((tiny_source.path / "tokenizer.json").read_text("utf-8"))
    assert source["truncation"]["max_length"] == 128
    assert source["padding"]["strategy"] == {"Fixed": 128}
    ours = json.loads((tiny_source.assets / "tokenizer.json").read_text("utf-8"))
    assert ours["truncation"]["max_length"] == 48
    assert ours["padding"]["strategy"] == "BatchLongest"
    config = json.loads((tiny_source.assets / "tokenizer_config.json").read_text("utf-8"))
    assert config["model_max_length"] == 48
    assert "max_length" not in config
