"""benchmarks.encode_cost: both sides take the same texts, and nothing is computed."""

from pathlib import Path

import pytest

from benchmarks import encode_cost
from pipeline.text.tokens import TokenBatch
from pipeline.vectors import FloatArray


def test_it_times_encode_beside_tokenizing(
    tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows: list[int] = []

    class Counted(encode_cost.AtOnce):
        def encode(self, batch: TokenBatch) -> FloatArray:
            rows.append(len(batch.input_ids))
            return super().encode(batch)

    monkeypatch.setattr(encode_cost, "AtOnce", Counted)
    texts = [f"text number {i}" for i in range(200)]
    cost = encode_cost.measure(tiny_bundle, texts, rounds=2)
    assert sum(rows) == 3 * len(texts)
    assert 0 < cost.tokenizing_s < 60
    assert cost.encode_s > 0
    assert cost.cpu > 0
