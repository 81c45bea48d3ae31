"""The int8 graph that is simulated is the one that is written."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from simulated import Prepared, prepare, run_unoptimized

from pipeline.config import Exporter, NumericType, PrecisionConfig, Rounding
from pipeline.contracts import OnnxModel, SourceModel
from pipeline.quant.refine.simulation import HeldBack
from pipeline.text.tokens import TokenBatch
from pipeline.vectors import row_cosines

ExportEncoder = Callable[[str, Exporter], tuple[SourceModel, OnnxModel]]


def int8(*, attention: bool = False, rounding: Rounding = Rounding.nearest) -> PrecisionConfig:
    return PrecisionConfig(
        name="int8", type=NumericType.int8, quantize_attention=attention, rounding=rounding
    )


@pytest.fixture
def prepared(
    tiny_fp32: OnnxModel, tiny_source: SourceModel, calibration_texts: Sequence[str]
) -> Prepared:
    """The tiny BERT, weights rounded to nearest."""
    return prepare(tiny_fp32, tiny_source, calibration_texts, int8())


def check_same(
    prepared: Prepared,
    names: Sequence[str],
    batch: TokenBatch,
    path: Path,
    *,
    least: float = 0.9999,
) -> torch.Tensor:
    """Check that the graph gives what was simulated, and return that."""
    simulated = prepared.simulation.embed(batch, names)
    prepared.write(names, path)
    assert row_cosines(run_unoptimized(path, batch), simulated.numpy()).min() >= least
    return simulated


@pytest.mark.parametrize("attention", [False, True], ids=["linear", "attention"])
@pytest.mark.parametrize("name", ["bert", "distilbert", "modernbert"])
def test_the_graph_computes_what_was_simulated(
    name: str,
    attention: bool,
    export_encoder: ExportEncoder,
    calibration_texts: Sequence[str],
    evaluation_texts: Sequence[str],
    tmp_path: Path,
) -> None:
    source, fp32 = export_encoder(name, Exporter.torch)
    config = int8(attention=attention, rounding=Rounding.gptq)
    prepared = prepare(fp32, source, calibration_texts, config)
    assert len(prepared.attention) == 4 * attention
    batch = prepared.tokenizer.pad(prepared.tokenizer.rows(evaluation_texts))
    exact = prepared.simulation.embed(batch).numpy()
    simulated = check_same(prepared, prepared.simulation.gemms, batch, tmp_path / "int8.onnx")
    assert row_cosines(exact, simulated.numpy()).min() < 0.99999


@pytest.mark.slow
@pytest.mark.parametrize(("gemms", "least"), [(6, 0.99999), (36, 0.9995)])
def test_minilm_computes_what_was_simulated(
    gemms: int,
    least: float,
    minilm_source: SourceModel,
    minilm_fp32: OnnxModel,
    calibration_texts: Sequence[str],
    evaluation_texts: Sequence[str],
    tmp_path: Path,
) -> None:
    """Over six layers, values between two steps go the other way with another order of sums.

    Noise of 1e-6 in the embedding table moves the simulation itself as far.
    """
    config = int8()
    config.smoothing_alphas = [0.8]
    prepared = prepare(minilm_fp32, minilm_source, calibration_texts[::16], config)
    simulation = prepared.simulation
    assert len(simulation.gemms) == 36
    names = simulation.gemms[:gemms]
    batch = prepared.tokenizer.pad(prepared.tokenizer.rows(evaluation_texts[::8]))
    exact = simulation.embed(batch).numpy()
    simulated = check_same(prepared, names, batch, tmp_path / "int8.onnx", least=least)
    assert row_cosines(exact, simulated.numpy()).mean() < 0.9995


@pytest.mark.parametrize("seed", range(2))
def test_any_gemms_can_stay_in_fp32(
    seed: int, prepared: Prepared, evaluation_batch: TokenBatch, tmp_path: Path
) -> None:
    every = prepared.simulation.gemms
    names = [str(name) for name in np.random.default_rng(seed).choice(every, 5, replace=False)]
    everything = prepared.simulation.embed(evaluation_batch, every).numpy()
    some = check_same(prepared, names, evaluation_batch, tmp_path / "int8.onnx")
    assert row_cosines(everything, some.numpy()).min() < 0.999995


def test_with_no_gemm_in_int8_the_simulation_is_the_fp32_graph(
    prepared: Prepared, tiny_fp32: OnnxModel, evaluation_batch: TokenBatch
) -> None:
    expected = run_unoptimized(tiny_fp32.path, evaluation_batch)
    simulated = prepared.simulation.embed(evaluation_batch).numpy()
    np.testing.assert_allclose(simulated, expected, atol=1e-5)


def test_held_back_text_is_compared_with_fp32_text_by_text(
    prepared: Prepared, evaluation_texts: Sequence[str]
) -> None:
    rows = prepared.tokenizer.rows(evaluation_texts)
    batches = [prepared.tokenizer.pad(part) for part in (rows[:3], rows[3:10])]
    simulation, names = prepared.simulation, prepared.simulation.gemms[:4]
    cosines = [
        row_cosines(simulation.embed(batch).numpy(), simulation.embed(batch, names).numpy())
        for batch in batches
    ]
    held_back = HeldBack(simulation, batches)
    assert held_back.mean_cosine(names) == pytest.approx(np.concatenate(cosines).mean(), abs=1e-6)
    assert held_back.mean_cosine([]) == pytest.approx(1, abs=1e-6)


def test_gradients_reach_weights_biases_and_steps_of_every_group(
    prepared: Prepared, evaluation_batch: TokenBatch
) -> None:
    simulation = prepared.simulation
    for group in simulation.groups:
        for tensor in (*group.weights, *group.biases, group.log_step):
            tensor.requires_grad_(True)
    embedding, residuals = simulation.residuals(evaluation_batch, simulation.gemms)
    exact, exact_residuals = simulation.residuals(evaluation_batch)
    assert len(residuals) == len(exact_residuals) == 5
    (embedding - exact).square().sum().backward()  # type: ignore[no-untyped-call]
    for group in simulation.groups:
        # What a key's bias adds to the scores of one query is the same for all keys.
        biases = [
            bias for name, bias in zip(group.names, group.biases, strict=True) if "key" not in name
        ]
        for tensor in (*group.weights, *biases, group.log_step):
            assert tensor.grad is not None
            assert torch.isfinite(tensor.grad).all()
            assert tensor.grad.abs().max() > 0


def test_the_gradient_of_a_bias_is_its_slope(
    prepared: Prepared, evaluation_batch: TokenBatch
) -> None:
    """Of the last GEMM, behind which nothing is rounded."""
    simulation, last = prepared.simulation, prepared.simulation.groups[-1]
    bias = last.biases[-1].requires_grad_(True)

    def total() -> torch.Tensor:
        return simulation.residuals(evaluation_batch, simulation.gemms)[0][:, 3].sum()

    total().backward()  # type: ignore[no-untyped-call]
    assert bias.grad is not None
    slope = float(bias.grad[7])
    with torch.no_grad():
        bias[7] += 1e-2
        above = float(total())
        bias[7] -= 2e-2
        below = float(total())
    assert slope == pytest.approx((above - below) / 2e-2, rel=1e-2)


def test_what_is_stored_is_what_was_simulated(
    prepared: Prepared, evaluation_batch: TokenBatch, tmp_path: Path
) -> None:
    simulation = prepared.simulation
    with torch.no_grad():
        for seed, group in enumerate(simulation.groups):
            torch.manual_seed(seed)
            group.log_step += 0.3
            for weight, bias in zip(group.weights, group.biases, strict=True):
                weight.add_(torch.randn_like(weight))
                bias.add_(0.1 * torch.randn_like(bias))
            group.store()
    simulated = simulation.embed(evaluation_batch, simulation.gemms)
    simulation.reload()
    again = simulation.embed(evaluation_batch, simulation.gemms)
    prepared.write(simulation.gemms, tmp_path / "int8.onnx")
    written = run_unoptimized(tmp_path / "int8.onnx", evaluation_batch)
    assert row_cosines(written, again.numpy()).min() >= 0.9999
    np.testing.assert_allclose(again, simulated, atol=1e-5)
    for stored in prepared.groups:
        assert float(np.float16(stored.step)) == float(stored.step)
        assert all(np.abs(part.integers.astype(int)).max() <= 127 for part in stored.gemms)
