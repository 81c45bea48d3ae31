"""Choose the text that int8 is calibrated on: what gives ranges, what decides between choices."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

from pipeline.config import PrecisionConfig, Rounding
from pipeline.contracts import SourceModel
from pipeline.graph.observe import MAX_TOKENS, unpadded_batches
from pipeline.progress import track
from pipeline.quant.calibrate.spans import cut_spans
from pipeline.quant.calibrate.statistics import Activation, observe
from pipeline.text.datasets import spread
from pipeline.text.source_text import open_tokenizer, tokenize
from pipeline.text.tokens import Tokenizer, TokenRow, by_exact_length


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """The tokenized text: ``fitted`` gives ranges and weights, ``held`` decides between choices.

    The last ``spans`` rows of ``fitted`` are spans of those before.
    """

    texts: Sequence[str]
    tokenizer: Tokenizer
    fitted: Sequence[TokenRow]
    held: Sequence[TokenRow]
    spans: int

    @property
    def sentences(self) -> Sequence[TokenRow]:
        """``fitted`` without the spans."""
        return self.fitted[: len(self.fitted) - self.spans]


def choose_text(source: SourceModel, config: PrecisionConfig, texts: Sequence[str]) -> Calibration:
    """Choose the text, and hold a part of it back, spread over its kinds."""
    texts = spread(texts, config.calibration_sentences)
    tokenizer = open_tokenizer(source)
    rows = tokenize(source, tokenizer, texts)
    count = int(len(rows) * config.held_back)
    held = set(spread(range(len(rows)), count)) if count else set()
    fitted = [row for i, row in enumerate(rows) if i not in held]
    spans = list(cut_spans(fitted, config.spans_per_sentence))
    return Calibration(
        texts=texts,
        tokenizer=tokenizer,
        fitted=[*fitted, *spans],
        held=[rows[i] for i in sorted(held)] or rows,
        spans=len(spans),
    )


def observe_groups(
    graph: ir.Model, tensors: Sequence[ir.Value], text: Calibration, rounding: Rounding
) -> tuple[Mapping[str, Activation], Mapping[str, Activation]]:
    """Return the tensors' statistics, by name, on the fitted and on the held-back text.

    Raises:
        QuantizeError: a tensor holds NaN or infinite values.
    """

    def watch(rows: Sequence[TokenRow], description: str, *, moments: bool) -> Any:
        batches = unpadded_batches(text.tokenizer, rows)
        count = len(by_exact_length(rows, max_tokens=MAX_TOKENS))
        return observe(graph, tensors, track(batches, description, total=count), moments=moments)

    return (
        watch(text.fitted, "calibrate", moments=rounding is Rounding.gptq),
        watch(text.held, "held back", moments=False),
    )


def describe_calibration(text: Calibration) -> dict[str, Any]:
    """Return what the report says of the text."""
    fitted = text.sentences
    held = text.held if len(fitted) < len(text.texts) else []
    lengths = np.array([len(row.ids) for row in (*fitted, *held)])
    return {
        "sentences": len(text.texts),
        "held_back": len(held),
        "spans": text.spans,
        "tokens": int(lengths.sum()),
        "sha256": hashlib.sha256("\n".join(text.texts).encode()).hexdigest(),
        "length_tokens": {
            "min": int(lengths.min()),
            "median": float(np.median(lengths)),
            "p95": float(np.quantile(lengths, 0.95)),
            "max": int(lengths.max()),
        },
    }
