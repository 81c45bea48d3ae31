"""Set up what every artifact is compared with and timed on: text, reference, its results."""

import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.config import Device, NumericType, ValidateConfig
from pipeline.contracts import EmbeddingRanges, SourceModel
from pipeline.engines import Encoder
from pipeline.engines.torch import TorchEncoder, usable_devices
from pipeline.measure.quality.quality import Expected, expect
from pipeline.measure.speed.devices import needed_devices
from pipeline.measure.speed.speed import TimedText
from pipeline.runtime.encoder import TextEncoder
from pipeline.source.probes import check_rows
from pipeline.text.datasets import Dataset, spread
from pipeline.text.source_text import open_tokenizer, tokenize
from pipeline.text.tokens import Tokenizer, by_length
from pipeline.vectors import FloatArray

PASS_SHARE = 1 / 160
LEAST_TIMED = 16
"""One timed pass of the reference takes at most this share of the budget, but so many texts at
least: many short rounds tell more than a few long ones, whose sides see different minutes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    """The text, the reference and its results, computed once for all artifacts."""

    source: SourceModel
    tokenizer: Tokenizer
    config: ValidateConfig
    dataset_sha256: str
    reference: TorchEncoder
    texts: Sequence[str]
    expected: Expected
    kind: NumericType


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnPath:
    """``SentenceTransformer.encode`` in the place of a bundle's: it reads no file of ours."""

    engine: TorchEncoder
    tokenizer: Tokenizer
    prompts: Mapping[str, str]
    default_prompt: str | None

    def encode(self, texts: Sequence[str], batch_size: int, *, prompt: str) -> FloatArray:
        """Return the embeddings, float32 ``[n, dim]``."""
        return self.engine.encode_texts(texts, batch_size, prompt)


def set_up(
    source: SourceModel,
    dataset: Dataset,
    config: ValidateConfig,
    kind: NumericType,
    ranges: EmbeddingRanges,
) -> Bench:
    """Load the reference and compute everything artifacts are compared with."""
    tokenizer = open_tokenizer(source)
    reference = TorchEncoder(source, device=config.device)
    texts = spread(dataset.evaluation, config.max_sentences)
    check_rows(reference.model, tokenizer, texts, source.prefix, source.location)
    own = OwnPath(
        engine=reference,
        tokenizer=tokenizer,
        prompts=source.prompts,
        default_prompt=source.default_prompt,
    )
    expected = expect(
        own,
        texts,
        dataset,
        prefix=source.prefix,
        batch_size=config.batch_size,
        ranges=np.load(ranges.path, allow_pickle=False),
        matryoshka=_says_matryoshka(source),
    )
    return Bench(
        source=source,
        tokenizer=tokenizer,
        config=config,
        dataset_sha256=_sha256(texts, dataset.evaluation),
        reference=reference,
        texts=texts,
        expected=expected,
        kind=kind,
    )


def _says_matryoshka(source: SourceModel) -> bool:
    """Whether the model's card says that it was trained to be cut."""
    card = source.assets / "README.md"
    return card.is_file() and "matryoshka" in card.read_text("utf-8", errors="replace").lower()


def open_references(bench: Bench, devices: Sequence[str]) -> Mapping[str, TorchEncoder]:
    """Return PyTorch fp32 by device, the bench's own first: on each of ``devices`` it may use."""
    main = bench.reference.device
    needed = needed_devices(devices, main, usable_devices(bench.config.device))
    others = {name: TorchEncoder(bench.source, device=Device(name)) for name in needed[1:]}
    return {main: bench.reference, **others}


def time_text(bench: Bench, references: Mapping[str, TorchEncoder]) -> TimedText:
    """Choose what is timed: as much as the slowest reference can afford."""
    text_s = max(
        seconds_a_text(
            text_encoder(bench.source, bench.tokenizer, encoder),
            bench.texts,
            bench.config.batch_size,
        )
        for encoder in references.values()
    )
    return choose_timed_text(bench.source, bench.tokenizer, bench.texts, bench.config, text_s)


def text_encoder(source: SourceModel, tokenizer: Tokenizer, encoder: Encoder) -> TextEncoder:
    """Put an encoder behind the model's tokenizer and prompts."""
    return TextEncoder(
        tokenizer,
        encoder,
        dimension=source.dimension,
        prompts=dict(source.prompts),
        default_prompt=source.default_prompt,
    )


def seconds_a_text(encoder: TextEncoder, texts: Sequence[str], batch_size: int) -> float:
    """Return what a text takes, by the faster of two passes: one may meet a busy moment."""
    few = spread(texts, 4 * LEAST_TIMED)
    seconds = []
    for _ in range(2):
        started = time.perf_counter()
        encoder.encode(few, batch_size)
        seconds.append(time.perf_counter() - started)
    return min(seconds) / len(few)


def choose_timed_text(
    source: SourceModel,
    tokenizer: Tokenizer,
    texts: Sequence[str],
    config: ValidateConfig,
    text_s: float,
) -> TimedText:
    """Choose what is timed; ``text_s`` is what the reference takes for a text."""
    affordable = int(PASS_SHARE * config.budget_s / text_s)
    chosen = spread(texts, max(LEAST_TIMED, min(config.timing_sentences, affordable)))
    rows = tokenize(source, tokenizer, chosen)
    singles = tokenize(source, tokenizer, spread(texts, config.latency_runs))
    return TimedText(
        texts=chosen,
        rows=rows,
        batches=[
            tokenizer.pad([rows[i] for i in indices])
            for indices in by_length(rows, config.batch_size)
        ],
        singles=[tokenizer.pad([row]) for row in singles],
        max_length=source.max_length,
    )


def _sha256(*texts: Sequence[str]) -> str:
    return hashlib.sha256(json.dumps([list(part) for part in texts]).encode()).hexdigest()
