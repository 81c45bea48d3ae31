"""Reconstruction: better on text it has not seen, or nothing; on spans without padding."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from simulated import Prepared, prepare, run_unoptimized

from pipeline.config import Exporter, NumericType, PrecisionConfig, Rounding, TargetConfig
from pipeline.contracts import OnnxModel, SourceModel
from pipeline.quant.refine import reconstruction
from pipeline.quant.refine.reconstruction import crops, reconstruct
from pipeline.quant.refine.simulation import HeldBack, Simulation
from pipeline.stages.quantize import quantize
from pipeline.text.tokens import TokenBatch, Tokenizer, TokenRow
from pipeline.vectors import row_cosines

STEPS = 40


@pytest.fixture(autouse=True)
def small_steps(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Iterator[None]:
    """Train on a quarter of the usual tokens; threads only wait for each other at this size."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    if "crops" not in request.node.name:
        monkeypatch.setattr(reconstruction, "_TOKENS", 256)
    yield
    torch.set_num_threads(threads)


def rough(**settings: Any) -> PrecisionConfig:
    """Return settings that leave something to train: hardly smoothed, rounded to nearest."""
    return PrecisionConfig(
        name="int8",
        type=NumericType.int8,
        rounding=Rounding.nearest,
        smoothing_alphas=[0.2],
        **settings,
    )


@pytest.fixture(scope="module")
def model(
    export_encoder: Callable[[str, Exporter], tuple[SourceModel, OnnxModel]],
) -> tuple[SourceModel, OnnxModel]:
    """A tiny BERT with outlier channels."""
    return export_encoder("bert", Exporter.torch)


@pytest.fixture
def prepared(model: tuple[SourceModel, OnnxModel], calibration_texts: Sequence[str]) -> Prepared:
    """It in int8, before anything is trained."""
    source, fp32 = model
    return prepare(fp32, source, calibration_texts, rough())


@pytest.fixture
def batch(prepared: Prepared, evaluation_texts: Sequence[str]) -> TokenBatch:
    """Text that is not trained on."""
    return prepared.tokenizer.pad(prepared.tokenizer.rows(evaluation_texts))


@pytest.fixture
def held_back(prepared: Prepared, batch: TokenBatch) -> HeldBack:
    return HeldBack(prepared.simulation, [batch])


def integers(prepared: Prepared) -> list[list[int]]:
    return [part.integers.ravel().tolist() for group in prepared.groups for part in group.gemms]


def run(prepared: Prepared, held_back: HeldBack, steps: int = STEPS) -> tuple[float, float]:
    return reconstruct(prepared.simulation, prepared.rows, held_back, prepared.tokenizer, steps)


def measure_anew(prepared: Prepared, batch: TokenBatch) -> float:
    """Return what is stored in the groups gives, in a simulation of its own."""
    simulation = Simulation(prepared.graph.graph, prepared.groups, tables=prepared.tables)
    return HeldBack(simulation, [batch]).mean_cosine(simulation.gemms)


def test_the_loss_on_other_text_shrinks(
    prepared: Prepared,
    held_back: HeldBack,
    batch: TokenBatch,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rates = {"weights": 2e-2, "biases": 1e-3, "steps": 1e-3}  # there are few steps
    monkeypatch.setattr(reconstruction, "_LEARNING_RATES", rates)
    start = held_back.mean_cosine(prepared.simulation.gemms)
    exact = prepared.simulation.embed(batch).numpy()
    before, after = run(prepared, held_back)
    assert before == pytest.approx(start, abs=1e-7)
    assert 1 - after < 0.85 * (1 - before)
    assert measure_anew(prepared, batch) == pytest.approx(after, abs=1e-6)
    prepared.write(prepared.simulation.gemms, tmp_path / "int8.onnx")
    written = run_unoptimized(tmp_path / "int8.onnx", batch)
    assert row_cosines(exact, written).mean() == pytest.approx(after, abs=0.1 * (1 - after))


@pytest.mark.parametrize(("what", "rate"), [("weights", 0.04), ("biases", 1e-3), ("steps", 2e-3)])
def test_each_kind_of_parameter_is_trained(
    what: str, rate: float, prepared: Prepared, held_back: HeldBack, monkeypatch: pytest.MonkeyPatch
) -> None:
    rates = {"weights": 0.0, "biases": 0.0, "steps": 0.0} | {what: rate}
    monkeypatch.setattr(reconstruction, "_LEARNING_RATES", rates)

    def stored() -> dict[str, object]:
        parts = [part for group in prepared.groups for part in group.gemms]
        return {
            "weights": integers(prepared),
            "biases": [part.bias_delta.tolist() for part in parts],
            "steps": [group.step for group in prepared.groups],
        }

    untouched = stored()
    before, after = run(prepared, held_back)
    assert after > before
    assert {name for name, value in stored().items() if value != untouched[name]} == {what}


def test_nothing_worse_than_the_start_is_stored(
    prepared: Prepared,
    held_back: HeldBack,
    batch: TokenBatch,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(
        reconstruction, "_LEARNING_RATES", {"weights": 10.0, "biases": 1.0, "steps": 1.0}
    )
    untouched = integers(prepared)
    steps = [group.step for group in prepared.groups]
    before, after = run(prepared, held_back, 8)
    assert after == before
    assert integers(prepared) == untouched
    assert [group.step for group in prepared.groups] == steps
    assert measure_anew(prepared, batch) == pytest.approx(before, abs=1e-6)


def test_afterwards_the_simulation_is_of_what_was_stored(
    prepared: Prepared, held_back: HeldBack, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not of where the last step led: the search for GEMMs to leave out goes on with it."""
    monkeypatch.setattr(
        reconstruction, "_LEARNING_RATES", {"weights": 10.0, "biases": 1.0, "steps": 1.0}
    )
    _, after = run(prepared, held_back, 8)
    assert held_back.mean_cosine(prepared.simulation.gemms) == pytest.approx(after, abs=1e-6)


def test_the_stage_reports_it_and_gives_the_same_bytes_again(
    model: tuple[SourceModel, OnnxModel], calibration_texts: Sequence[str], tmp_path: Path
) -> None:
    config = rough(reconstruction_steps=4, target=TargetConfig(cosine_mean=0.9))
    first, again = (
        quantize(model[1], model[0], config, calibration_texts, tmp_path / name)
        for name in ("first", "again")
    )
    said = (first.quantization or {})["reconstruction"]
    assert said["steps"] == 4
    cosines = said["held_back_cosine_mean"]
    assert 0.9 < cosines["before"] <= cosines["after"] <= 1
    reached = (first.quantization or {})["target"]["held_back_cosine_mean"]
    assert reached == pytest.approx(cosines["after"], abs=1e-4)
    assert first.portable.sha256 == again.portable.sha256


# What it is trained on


def make_rows(lengths: Sequence[int]) -> list[TokenRow]:
    """Return rows of ``[1, row and place..., 2]``, of which types are the ids as well."""
    rows = []
    for index, length in enumerate(lengths):
        ids = (1, *(1000 * (index + 1) + place for place in range(1, length - 1)), 2)
        rows.append(TokenRow(ids=ids, type_ids=ids))
    return rows


def test_crops_are_spans_between_the_first_and_last_token(tiny_tokenizer: Tokenizer) -> None:
    rows = make_rows([2, 3, 5, 9, 9, 17, 40, 48])
    lengths, starts = set(), set()
    for batch in crops(rows, tiny_tokenizer, 200):
        assert batch.attention_mask.all()
        assert (batch.input_ids[:, 0] == 1).all()
        assert (batch.input_ids[:, -1] == 2).all()
        assert (np.diff(batch.input_ids[:, 1:-2], axis=1) == 1).all()
        np.testing.assert_array_equal(batch.token_type_ids, batch.input_ids)
        lengths.add(batch.input_ids.shape[1])
        starts |= set((batch.input_ids[:, 1] % 1000).tolist())
    assert lengths == {2, 3, 5, 9, 17, 40, 48}
    assert len(starts) > 20


def test_crops_are_as_long_as_the_rows_and_about_as_many_tokens(tiny_tokenizer: Tokenizer) -> None:
    rows = make_rows([10] * 300 + [40] * 100)
    sizes = [batch.input_ids.shape for batch in crops(rows, tiny_tokenizer, 400)]
    assert set(sizes) == {(102, 10), (25, 40)}
    assert 0.68 < np.mean([length == 10 for _, length in sizes]) < 0.82
    for batch in crops(make_rows([10] * 300), tiny_tokenizer, 3):
        assert len(set(batch.input_ids[:, 1].tolist())) == 102  # no row twice


def test_crops_are_the_same_every_time(tiny_tokenizer: Tokenizer) -> None:
    rows = make_rows([5, 9, 17, 40])
    first, again = (list(crops(rows, tiny_tokenizer, 20)) for _ in range(2))
    for one, other in zip(first, again, strict=True):
        np.testing.assert_array_equal(one.input_ids, other.input_ids)
