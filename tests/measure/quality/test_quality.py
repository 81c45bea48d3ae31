import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace

import numpy as np
import numpy.typing as npt
import pytest

from pipeline.contracts import OnnxModel, SourceModel
from pipeline.engines.onnxruntime import OnnxRuntimeEncoder
from pipeline.errors import MeasureError
from pipeline.measure.quality.quality import Expected, Quality, expect, measure_quality
from pipeline.runtime import TextEncoder
from pipeline.text.datasets import Dataset
from pipeline.text.tokens import TokenBatch, Tokenizer

FloatArray = npt.NDArray[np.float32]
Change = Callable[[TokenBatch, FloatArray], None]


class Changed:
    """An encoder whose embeddings are tampered with."""

    max_tokens: int | None = None
    bucketed = False

    def __init__(self, encoder: OnnxRuntimeEncoder, change: Change) -> None:
        self.name = "artifact"
        self.device = "cpu"
        self.encoder = encoder
        self.change = change

    def encode(self, batch: TokenBatch) -> FloatArray:
        embeddings = self.encoder.encode(batch).copy()
        self.change(batch, embeddings)
        return embeddings


@pytest.fixture
def encoder(
    tiny_fp32: OnnxModel, tiny_source: SourceModel, tiny_tokenizer: Tokenizer
) -> Callable[[Change], TextEncoder]:
    """Return a function that makes an encoder of the tiny model with changed embeddings."""

    def make(change: Change) -> TextEncoder:
        return TextEncoder(
            tiny_tokenizer,
            Changed(OnnxRuntimeEncoder(tiny_fp32.path, cuda=False), change),
            dimension=tiny_source.dimension,
            prompts={},
            default_prompt=None,
        )

    return make


def nothing(batch: TokenBatch, embeddings: FloatArray) -> None:
    pass


def on_text(tokenizer: Tokenizer, text: str, value: float) -> Change:
    """Return a change of every number of ``text``'s embedding to ``value``."""
    (row,) = tokenizer.rows([text])

    def change(batch: TokenBatch, embeddings: FloatArray) -> None:
        for i, (ids, mask) in enumerate(zip(batch.input_ids, batch.attention_mask, strict=True)):
            if tuple(ids[mask == 1]) == row.ids:
                embeddings[i] = value

    return change


@pytest.fixture
def texts(evaluation_texts: Sequence[str]) -> list[str]:
    """Texts that are all different as tokens too."""
    return list(evaluation_texts[:40])


@pytest.fixture
def expected(
    encoder: Callable[[Change], TextEncoder], texts: list[str], sample: Dataset
) -> Expected:
    dataset = replace(sample, tasks=())
    return expect(encoder(nothing), texts, dataset, prefix="", batch_size=8)


def test_the_same_encoder_agrees_in_everything(
    encoder: Callable[[Change], TextEncoder], expected: Expected, sample: Dataset
) -> None:
    quality = measure_quality(encoder(nothing), expected, batch_size=8, worst=3)
    assert quality.agreement.min == pytest.approx(1)
    assert len(quality.breakdown.worst) == 3
    assert quality.breakdown.by_length[-1][0] == (33, 48)
    assert {kind for kind, _ in quality.breakdown.by_kind} <= set(sample.kinds.values())
    assert sum(group.n for _, group in quality.breakdown.by_kind) == 40


def test_the_prompt_counts_as_tokens(
    encoder: Callable[[Change], TextEncoder], texts: list[str], sample: Dataset
) -> None:
    plain, prompted = (
        expect(encoder(nothing), texts[:12], replace(sample, tasks=()), prefix=p, batch_size=8)
        for p in ("", "query: ")
    )
    shorter = [i for i, text in enumerate(prompted.texts) if text.tokens < 48]
    assert shorter
    for i in shorter:
        assert prompted.texts[i].tokens > plain.texts[i].tokens
        assert prompted.texts[i].text == plain.texts[i].text


def test_the_text_that_agrees_least_is_quoted(
    encoder: Callable[[Change], TextEncoder],
    expected: Expected,
    texts: list[str],
    tiny_tokenizer: Tokenizer,
    sample: Dataset,
) -> None:
    broken = encoder(on_text(tiny_tokenizer, texts[7], 0.0))
    quality = measure_quality(broken, expected, batch_size=8, worst=1)
    ((worst, cosine),) = quality.breakdown.worst
    assert (worst.text, worst.kind) == (texts[7][:200], sample.kinds[texts[7]])
    assert cosine == quality.agreement.min == 0
    assert quality.agreement.checks.zero == 1


@pytest.mark.many
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_vector_that_is_none_is_counted_and_has_cosine_0(
    encoder: Callable[[Change], TextEncoder],
    expected: Expected,
    texts: list[str],
    tiny_tokenizer: Tokenizer,
    value: float,
) -> None:
    first, second = (on_text(tiny_tokenizer, texts[i], value) for i in (9, 5))

    def both(batch: TokenBatch, embeddings: FloatArray) -> None:
        first(batch, embeddings)
        second(batch, embeddings)

    quality = measure_quality(encoder(both), expected, batch_size=8, worst=2)
    assert quality.agreement.checks.nan == 2
    assert quality.agreement.checks.zero == 0
    assert quality.agreement.mean == pytest.approx(38 / 40)
    assert {text.text for text, _ in quality.breakdown.worst} == {texts[9][:200], texts[5][:200]}
    assert [cosine for _, cosine in quality.breakdown.worst] == [0, 0]
    assert_numbers(quality)


@pytest.mark.slow
def test_an_artifact_that_returns_nothing_but_nan_has_figures(
    encoder: Callable[[Change], TextEncoder], sample: Dataset
) -> None:
    expected = expect(encoder(nothing), sample.evaluation[:20], sample, prefix="", batch_size=32)

    def nan(batch: TokenBatch, embeddings: FloatArray) -> None:
        embeddings[:] = np.nan

    quality = measure_quality(encoder(nan), expected, batch_size=32, worst=1)
    assert quality.agreement.checks.nan == quality.agreement.n == 20
    assert quality.agreement.mean == 0
    assert quality.tasks["sample"].main.delta < 0
    assert_numbers(quality)


def assert_numbers(quality: Quality) -> None:
    """JSON has no NaN, so that a report with one could not be written."""
    json.dumps(asdict(quality), allow_nan=False)


@pytest.mark.many
@pytest.mark.parametrize("only_in_task", [False, True])
def test_nan_of_the_reference_is_refused(
    encoder: Callable[[Change], TextEncoder],
    tiny_tokenizer: Tokenizer,
    sample: Dataset,
    only_in_task: bool,
) -> None:
    texts = sample.evaluation[:20]
    text = sample.evaluation[300] if only_in_task else texts[5]
    broken = encoder(on_text(tiny_tokenizer, text, np.nan))
    with pytest.raises(MeasureError, match="returns NaN or infinite embeddings for 1 of") as caught:
        expect(broken, texts, sample, prefix="", batch_size=32)
    assert repr(text[:80]) in str(caught.value)
