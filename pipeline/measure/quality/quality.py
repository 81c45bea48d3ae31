"""Measure what an artifact's vectors are worth: agreement with the reference, tasks, sanity."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from pipeline.engines import Encoder
from pipeline.errors import MeasureError
from pipeline.measure.quality.agreement import Agreement, agreement
from pipeline.measure.quality.breakdown import Breakdown, Text, break_down
from pipeline.measure.quality.search import QUERIES, SearchScores, Sought, measure_search, seek
from pipeline.measure.quality.tasks import (
    Encode,
    TaskScores,
    Values,
    compare_task,
    measure_task,
)
from pipeline.progress import track
from pipeline.runtime.encoder import TextEncoder
from pipeline.runtime.invariance import Invariance, measure_invariance
from pipeline.text.datasets import Dataset, spread
from pipeline.text.labelled import Retrieval, Task
from pipeline.text.tokens import Tokenizer, TokenRow
from pipeline.vectors import FloatArray, row_cosines, zero_where_not_finite

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Expected:
    """The text to compare on, ``[n]`` with its tokens, and what the reference makes of it."""

    texts: Sequence[Text]
    rows: Sequence[TokenRow]
    embeddings: FloatArray
    tasks: Sequence[Task]
    task_values: Mapping[str, Values]
    sought: Sought | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Quality:
    """One artifact's figures."""

    agreement: Agreement
    breakdown: Breakdown
    invariance: Invariance
    tasks: Mapping[str, TaskScores]
    search: SearchScores | None = None


class TextPath(Protocol):
    """Text to embeddings: a bundle's encoder, or the Sentence Transformer's own."""

    @property
    def engine(self) -> Encoder:
        """The engine behind it."""
        ...

    @property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer that counts tokens."""
        ...

    @property
    def prompts(self) -> Mapping[str, str]:
        """The model's prompts by name."""
        ...

    @property
    def default_prompt(self) -> str | None:
        """The name of the prompt that goes before a text where no other is asked for."""
        ...

    def encode(self, texts: list[str], batch_size: int, *, prompt: str) -> FloatArray:
        """Return the embeddings, float32 ``[n, dim]``."""
        ...


def expect(
    reference: TextPath,
    texts: Sequence[str],
    dataset: Dataset,
    *,
    prefix: str,
    batch_size: int,
    ranges: FloatArray | None = None,
    matryoshka: bool = False,
) -> Expected:
    """Encode ``texts`` and the tasks' text with the reference.

    ``ranges`` of the vectors' dimensions: with them it is searched, in the tasks' first collection
    or, without one, among the texts. ``matryoshka``: the model was trained to be cut.

    Raises:
        MeasureError: it returns NaN or infinity, with which nothing can be compared.
    """
    encode = cached(reference, batch_size)

    def refusing(some: Sequence[str], prompts: Sequence[str] = ()) -> FloatArray:
        return _finite(reference.engine.name, some, encode(some, prompts))

    rows = reference.tokenizer.rows(texts, prefix)
    return Expected(
        texts=[
            Text(text=text, tokens=len(row.ids), kind=dataset.kinds.get(text))
            for text, row in zip(texts, rows, strict=True)
        ],
        rows=rows,
        embeddings=_finite(reference.engine.name, texts, encode(texts)),
        tasks=dataset.tasks,
        task_values={task.name: measure_task(task, refusing) for task in dataset.tasks},
        sought=None if ranges is None else _seek(texts, dataset, refusing, ranges, matryoshka),
    )


def _seek(
    texts: Sequence[str],
    dataset: Dataset,
    encode: Encode,
    ranges: FloatArray,
    matryoshka: bool,
) -> Sought:
    collections = [t for t in dataset.tasks if isinstance(t, Retrieval) and t.is_search]
    task = collections[0] if collections else None
    queries = spread(texts if task is None else list(dict.fromkeys(task.queries)), QUERIES)
    documents = queries if task is None else task.documents
    return seek(
        queries,
        documents,
        encode(queries, () if task is None else task.query_prompts),
        encode(documents, () if task is None else task.document_prompts),
        task=task,
        ranges=ranges,
        matryoshka=matryoshka,
    )


def measure_quality(
    artifact: TextEncoder, expected: Expected, *, batch_size: int, worst: int
) -> Quality:
    """Encode the same text with an artifact and compare; quote the ``worst`` texts.

    A vector that is not finite is counted and then taken for a zero vector: its cosine is 0, every
    figure stays a number, and the gate ``vectors.finite`` says what happened.
    """
    encode = cached(artifact, batch_size)

    def numbers(some: Sequence[str], prompts: Sequence[str] = ()) -> FloatArray:
        return zero_where_not_finite(encode(some, prompts))

    texts = [text.text for text in expected.texts]
    embeddings = encode(texts)
    close = agreement(expected.embeddings, embeddings)
    if close.checks.nan:
        log.warning(
            "%s returns NaN or infinite vectors for %d of %d texts",
            artifact.engine.name,
            close.checks.nan,
            close.n,
        )
    log.info(
        "%s: mean cosine %.6f, lowest %.6f, n %d",
        artifact.engine.name,
        close.mean,
        close.min,
        close.n,
    )
    return Quality(
        agreement=close,
        breakdown=break_down(
            row_cosines(expected.embeddings, zero_where_not_finite(embeddings)),
            expected.texts,
            max_length=artifact.tokenizer.max_length,
            worst=worst,
        ),
        invariance=measure_invariance(artifact.engine, artifact.tokenizer, expected.rows),
        tasks={
            task.name: compare_task(
                task, expected.task_values[task.name], measure_task(task, numbers)
            )
            for task in expected.tasks
        },
        search=_search(expected.sought, numbers),
    )


def _search(sought: Sought | None, encode: Encode) -> SearchScores | None:
    if sought is None:
        return None
    task = sought.task
    queries = encode(sought.query_texts, () if task is None else task.query_prompts)
    documents = encode(sought.document_texts, () if task is None else task.document_prompts)
    return measure_search(sought, queries, documents)


def cached(encoder: TextPath, batch_size: int) -> Encode:
    """Return an encode function that computes each text once a prompt, with progress."""
    by_prompt: dict[str, dict[str, FloatArray]] = {}

    def encode(texts: Sequence[str], prompts: Sequence[str] = ()) -> FloatArray:
        prompt = _prompt(encoder, prompts)
        known = by_prompt.setdefault(prompt, {})
        new = [text for text in dict.fromkeys(texts) if text not in known]
        new.sort(key=len, reverse=True)
        chunks = [new[i : i + 4 * batch_size] for i in range(0, len(new), 4 * batch_size)]
        for chunk in track(chunks, f"encode ({encoder.engine.name})", total=len(chunks)):
            vectors = encoder.encode(chunk, batch_size, prompt=prompt)
            known.update(zip(chunk, vectors, strict=True))
        return np.stack([known[text] for text in texts])

    return encode


def _prompt(encoder: TextPath, names: Sequence[str]) -> str:
    """Return the first prompt named that the model has, or its default one.

    As for Sentence Transformers, every model has a ``query`` and a ``document``, maybe empty.
    """
    for name in names:
        if name in encoder.prompts or name in ("query", "document"):
            return encoder.prompts.get(name, "")
    default = encoder.default_prompt
    return "" if default is None else encoder.prompts.get(default, "")


def _finite(name: str, texts: Sequence[str], embeddings: FloatArray) -> FloatArray:
    """Return a reference's embeddings; refuse those that nothing can be compared with."""
    bad = np.flatnonzero(~np.isfinite(embeddings).all(axis=1))
    if len(bad):
        raise MeasureError(
            f"{name} returns NaN or infinite embeddings for {len(bad)} of {len(texts)} sentences, "
            f"first for number {bad[0]}, {texts[bad[0]][:80]!r}: something overflows; "
            "the checkpoint itself is broken; check its weights"
        )
    return embeddings
