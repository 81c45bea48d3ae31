"""The fewest GEMMs that have to be left in high precision."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from architectures import ARCHITECTURES, make_tokenizer, save_encoder

from pipeline.config import NumericType, PrecisionConfig, Rounding, TargetConfig
from pipeline.contracts import OnnxModel, SourceModel
from pipeline.engines.onnxruntime import OnnxRuntimeEncoder
from pipeline.graph.files import constant, load_graph
from pipeline.quant.refine.sensitivity import cosine_losses, search
from pipeline.quant.refine.simulation import HeldBack
from pipeline.stages.quantize import quantize
from pipeline.text.datasets import Dataset
from pipeline.text.tokens import Tokenizer
from pipeline.vectors import row_cosines

Cost = Callable[[frozenset[str]], float]


class Costs:
    """Scores by a function of the names that are in int8."""

    def __init__(self, cost: Cost) -> None:
        self._cost = cost

    def mean_cosine(self, int8: Collection[str]) -> float:
        return 1 - self._cost(frozenset(int8))


def find(cost: Cost, names: Sequence[str], target: float) -> tuple[frozenset[str], float]:
    held_back = cast(HeldBack, Costs(cost))
    losses = cosine_losses(held_back, names)
    assert losses == {name: pytest.approx(cost(frozenset([name]))) for name in names}
    int8, reached = search(held_back, losses, target)
    assert reached == held_back.mean_cosine(int8)
    assert int8 <= set(names)
    return int8, reached


def fewest(cost: Cost, names: Sequence[str], target: float) -> int:
    """Return how many have to be left out at least, by trying everything."""
    return next(
        count
        for count in range(len(names) + 1)
        if any(
            1 - cost(frozenset(names) - frozenset(out)) >= target
            for out in combinations(names, count)
        )
    )


def draw_costs(seed: int) -> dict[str, float]:
    """Draw twelve costs of very different size."""
    sizes = 10.0 ** np.random.default_rng(seed).uniform(-5, -2, 12)
    return {f"gemm{i}": float(size) for i, size in enumerate(sizes)}


@pytest.mark.parametrize("target", [0.97, 0.99, 0.999, 0.9999])
@pytest.mark.parametrize("seed", range(4))
def test_of_costs_that_add_up_the_fewest_are_left_out(seed: int, target: float) -> None:
    costs = draw_costs(seed)

    def cost(int8: frozenset[str]) -> float:
        return sum(costs[name] for name in int8)

    int8, reached = find(cost, list(costs), target)
    assert reached >= target
    left_out = set(costs) - int8
    assert len(left_out) == fewest(cost, list(costs), target)
    assert all(costs[out] >= costs[stays] for out in left_out for stays in int8)


@pytest.mark.parametrize("seed", range(8))
def test_of_costs_that_do_not_add_up_no_single_one_could_come_back(seed: int) -> None:
    costs, random = draw_costs(seed), np.random.default_rng(seed)
    pairs = {
        pair: random.uniform(-0.5, 0.5) * min(costs[name] for name in pair)
        for pair in combinations(costs, 2)
    }

    def cost(int8: frozenset[str]) -> float:
        together = sum(extra for pair, extra in pairs.items() if int8 >= set(pair))
        return max(0.0, sum(costs[name] for name in int8) + together)

    target = 1 - cost(frozenset(costs)) / 3
    int8, reached = find(cost, list(costs), target)
    assert reached >= target
    for name in set(costs) - int8:
        assert 1 - cost(int8 | {name}) < target


def test_gemms_that_cost_little_once_another_one_is_out_come_back() -> None:
    alone = {"a": 0.003, "b": 0.002, "bad": 0.001, "c": 0.0001}

    def cost(int8: frozenset[str]) -> float:
        if len(int8) > 1 and "bad" not in int8:
            return 1e-4 * len(int8)
        return sum(alone[name] for name in int8)

    assert find(cost, list(alone), 0.9995)[0] == {"a", "b", "c"}


def test_a_target_that_everything_meets_leaves_everything_in_int8() -> None:
    assert find(lambda int8: 1e-4 * len(int8), ["a", "b", "c"], 0.999)[0] == {"a", "b", "c"}


def test_everything_is_left_out_in_the_worst_case() -> None:
    int8, reached = find(lambda int8: 0.5 * bool(int8), ["a", "b", "c"], 0.999)
    assert (int8, reached) == (frozenset(), 1)


# On a model


@pytest.fixture(scope="module")
def fragile(
    sample: Dataset,
    resolve_dir: Callable[[Path], SourceModel],
    tmp_path_factory: pytest.TempPathFactory,
) -> SourceModel:
    """A BERT whose first feed-forward block has one hard channel, too narrow to be split."""

    def plant(model: Any) -> None:
        model.eval()
        ids = torch.randint(4, model.config.vocab_size, (32, 12))
        inner = model.encoder.layer[0].intermediate.dense
        seen: list[torch.Tensor] = []
        hook = inner.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
        ids[:, 0] = 0
        model.embeddings.word_embeddings.weight[0] *= 10
        model(input_ids=ids)
        hook.remove()
        special, others = seen[0][:, 0], seen[0][:, 1:]
        direction = special.mean(dim=0) - others.mean(dim=(0, 1))
        direction *= 100 / (special @ direction - (others @ direction).max()).mean()
        inner.weight[5] = direction
        inner.bias[5] = -(others @ direction).max()
        model.encoder.layer[0].output.dense.weight[:, 5] *= 10

    root = tmp_path_factory.mktemp("fragile")
    architecture = replace(ARCHITECTURES["bert"], plant=plant)
    return resolve_dir(save_encoder(architecture, make_tokenizer(sample.calibration), root))


@pytest.mark.slow
def test_the_gemm_that_hurts_is_the_one_left_in_fp32(
    fragile: SourceModel,
    export_torch: Callable[[SourceModel], OnnxModel],
    calibration_texts: Sequence[str],
    evaluation_texts: Sequence[str],
    tmp_path: Path,
) -> None:
    fp32, target = export_torch(fragile), 0.9999
    config = PrecisionConfig(
        name="int8",
        type=NumericType.int8,
        rounding=Rounding.nearest,
        target=TargetConfig(cosine_mean=target),
    )
    graphs = quantize(fp32, fragile, config, calibration_texts, tmp_path / "out")
    said = graphs.quantization or {}
    table = {row["name"]: row for row in said["gemm_list"]}
    assert (said["gemms"], said["gemms_int8"], len(table)) == (12, 11, 12)
    assert said["target"]["cosine_mean"] == target
    assert target <= said["target"]["held_back_cosine_mean"] <= 1
    (left,) = (row for row in table.values() if not row["int8"])
    assert left["name"].endswith("layer.0.output.dense")
    assert left["reason"] == "the target does not hold with it in int8"
    assert left["cosine_loss"] == max(row["cosine_loss"] for row in table.values())
    reasons = {row["reason"] for row in table.values() if row["int8"]}
    assert reasons == {"the target holds with it in int8"}
    for form in (graphs.portable, graphs.buildable):
        nodes = list(load_graph(form).graph)
        weights = [
            node
            for node in nodes
            if node.op_type == "DequantizeLinear"
            and constant(node.inputs[0]) is not None
            and "embeddings" not in (node.name or "")
        ]
        assert len(weights) == 11
        assert sum(node.op_type == "QuantizeLinear" for node in nodes) == 7
    tokenizer = Tokenizer(fragile.assets, max_length=fragile.max_length)
    batch = tokenizer.pad(tokenizer.rows(evaluation_texts))
    expected, observed = (
        OnnxRuntimeEncoder(model.path).encode(batch) for model in (fp32, graphs.portable)
    )
    assert row_cosines(expected, observed).mean() > 0.9998
