"""The bundle's Triton repository, served by the real tritonserver."""

import dataclasses
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import cycle, islice
from pathlib import Path

import numpy as np
import pytest
from bundles import publish_tiny
from triton_server import Server, serve

from benchmarks.serving.triton import with_stand_in
from pipeline.bundle.triton.repository import MAX_BATCH
from pipeline.contracts import OnnxModel, SourceModel
from pipeline.runtime import TextEncoder, load
from pipeline.text.datasets import Dataset
from pipeline.vectors import row_cosines

pytestmark = pytest.mark.slow

CLIENTS = 16
REQUESTS = 200
CLOSE = 0.9999


@pytest.fixture(scope="module")
def bundle(
    tiny_source: SourceModel, tiny_fp32: OnnxModel, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The tiny model in fp32, with prompts."""
    prompts = {"query": "search for: ", "document": "text to find: "}
    source = dataclasses.replace(tiny_source, prompts=prompts)
    work = tmp_path_factory.mktemp("triton")
    return publish_tiny(source, tiny_fp32, work, work / "published")


@pytest.fixture(scope="module")
def server(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    scratch = tmp_path_factory.mktemp("server")
    with serve(with_stand_in(bundle, scratch / "repository"), scratch) as running:
        yield running


@pytest.fixture(scope="module")
def encoder(bundle: Path) -> TextEncoder:
    return load(bundle, engine="onnxruntime")


def test_many_clients(server: Server, encoder: TextEncoder, sample: Dataset) -> None:
    """No error, the vectors of ``encode()``, and batches of texts of different requests."""
    texts = list(islice(cycle(sample.evaluation), CLIENTS * REQUESTS))
    expected = encoder.encode(texts)
    before = server.counts("tiny_encoder")

    def run_client(i: int) -> float:
        lowest = 1.0
        for j in range(i, len(texts), CLIENTS):
            vectors = server.infer("tiny", {"text": [texts[j]]})
            lowest = min(lowest, row_cosines(vectors, expected[j : j + 1]).min())
        return lowest

    with ThreadPoolExecutor(CLIENTS) as pool:
        assert min(pool.map(run_client, range(CLIENTS))) >= CLOSE
    texts_encoded, executions = np.subtract(server.counts("tiny_encoder"), before)
    print(f"{texts_encoded} texts in {executions} batches")
    assert texts_encoded == CLIENTS * REQUESTS
    assert executions < texts_encoded


@pytest.mark.parametrize("name", ["query", "document"])
def test_prompts(name: str, server: Server, encoder: TextEncoder) -> None:
    """Several texts in one request, each with its own prompt's name."""
    texts = ["short", "a text of some more words", "naïve façade 🙂", ""]
    vectors = server.infer("tiny", {"text": texts, "prompt_name": [name] * len(texts)})
    expected = encoder.encode(texts, prompt_name=name)
    assert row_cosines(vectors, expected).min() >= CLOSE
    assert row_cosines(vectors, encoder.encode(texts)).min() < CLOSE


@pytest.mark.parametrize(
    ("texts", "name", "words"),
    [
        (["a text"], "nix", "prompt name 'nix': the model has document, query"),
        (["a text"] * (MAX_BATCH + 1), "query", f"<= {MAX_BATCH}"),
        ([], "query", "got 0"),
    ],
    ids=["unknown prompt", "too many texts", "no text"],
)
def test_refused_by_name_and_alone(
    texts: list[str], name: str, words: str, server: Server, encoder: TextEncoder
) -> None:
    """A request that cannot be answered says why; the server goes on."""
    with pytest.raises(AssertionError, match=re.escape(words)):
        server.infer("tiny", {"text": texts, "prompt_name": [name] * len(texts)})
    good = server.infer("tiny", {"text": ["a text"]})
    assert row_cosines(good, encoder.encode(["a text"])).min() >= CLOSE
