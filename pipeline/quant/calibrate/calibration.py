"""Choose the text that int8 is calibrated on: what gives ranges, what decides between choices."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

from pipeline.config import PrecisionConfig, Rounding
from pipeline.contracts import SourceModel
from pipeline.graph.observe import unpadded_batches
from pipeline.graph.pieces import Walk, cut
from pipeline.quant.calibrate.spans import cut_spans, swap_words
from pipeline.quant.calibrate.statistics import Activation, Sum
from pipeline.text.datasets import spread
from pipeline.text.source_text import open_tokenizer, tokenize
from pipeline.text.tokens import Tokenizer, TokenRow


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Statistics:
    """What was seen of some tensors, by name, on the fitted text and on the text held back."""

    fitted: Mapping[str, Activation]
    held: Mapping[str, Activation]


def choose_text(source: SourceModel, config: PrecisionConfig, texts: Sequence[str]) -> Calibration:
    """Choose the text, and hold a part of it back, spread over its kinds."""
    texts = spread(texts, config.calibration_sentences)
    tokenizer = open_tokenizer(source)
    rows = tokenize(source, tokenizer, texts)
    count = int(len(rows) * config.held_back)
    held = set(spread(range(len(rows)), count)) if count else set()
    fitted = [row for i, row in enumerate(rows) if i not in held]
    spans = list(cut_spans(fitted, config.spans_per_sentence))
    swapped = cut_spans(fitted, config.vocabulary_spans_per_sentence)
    spans += swap_words(swapped, tokenizer.ordinary_ids())
    return Calibration(
        texts=texts,
        tokenizer=tokenizer,
        fitted=[*fitted, *spans],
        held=[rows[i] for i in sorted(held)] or rows,
        spans=len(spans),
    )


def observe_in_turn(
    graph: ir.Model,
    starts: Sequence[int],
    tensors: Sequence[ir.Value],
    text: Calibration,
    rounding: Rounding,
) -> Iterator[Statistics]:
    """Run the graph cut in front of the nodes ``starts``; yield each piece's tensors' statistics.

    The graph may change between two pieces: each runs as it was.

    Raises:
        QuantizeError: a tensor holds NaN or infinite values.
    """
    fitted = list(unpadded_batches(text.tokenizer, text.fitted))
    held = list(unpadded_batches(text.tokenizer, text.held))
    walk = Walk(cut(graph, starts, tensors), [*fitted, *held])
    while len(walk):
        sums: tuple[dict[str, Sum], dict[str, Sum]] = ({}, {})
        for number, values in walk.step():
            is_held = number >= len(fitted)
            wanted = rounding is Rounding.gptq and not is_held
            for name, value in values.items():
                of = sums[is_held]
                if name not in of:
                    of[name] = Sum(name, value.shape[-1], covariance=wanted)
                of[name].add(value)
        yield Statistics(
            fitted={name: total.result() for name, total in sums[0].items()},
            held={name: total.result() for name, total in sums[1].items()},
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
