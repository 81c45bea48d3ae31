"""Fit integers, steps and biases to the fp32 outputs, end to end and without labels.

Nagel et al., "Up or Down? Adaptive Rounding for Post-Training Quantization", ICML 2020
(arXiv:2004.10568) learn the rounding layer by layer; Li et al., "BRECQ", ICLR 2021
(arXiv:2102.05426) block by block. Encoders are small enough for all blocks at once: the loss is
the embedding's cosine distance plus the relative squared error of what enters each norm.
"""

import logging
import math
from collections.abc import Iterator, Sequence

import numpy as np
import torch

from pipeline.progress import track
from pipeline.quant.calibrate.spans import cut_span
from pipeline.quant.refine.simulation import HeldBack, Simulation
from pipeline.text.tokens import TokenBatch, Tokenizer, TokenRow

log = logging.getLogger(__name__)

_TOKENS = 1024
"""Tokens a step."""

_LEARNING_RATES = {"weights": 4e-3, "biases": 1e-4, "steps": 1e-4}
"""Adam moves a number by about this at most: weights in units of their step, steps in log."""

_WARMUP = 25
_CHECKS = 4
"""How often the held-back text is looked at."""


def reconstruct(
    simulation: Simulation,
    rows: Sequence[TokenRow],
    held_back: HeldBack,
    tokenizer: Tokenizer,
    steps: int,
) -> tuple[float, float]:
    """Train for ``steps`` steps and store what was best on the held-back text, start included.

    Returns the mean cosine on the held-back text before and after.
    """
    everything = simulation.gemms
    parameters = {
        "weights": [w for group in simulation.groups for w in group.weights],
        "biases": [b for group in simulation.groups for b in group.biases],
        "steps": [group.log_step for group in simulation.groups],
    }
    for tensor in (t for tensors in parameters.values() for t in tensors):
        tensor.requires_grad_(True)
    optimizer = torch.optim.Adam(
        [{"params": parameters[name], "lr": rate} for name, rate in _LEARNING_RATES.items()],
        betas=(0.9, 0.99),
        foreach=True,
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _rate(step, steps))
    before = best = held_back.mean_cosine(everything)
    batches = crops(rows, tokenizer, steps)
    for step, batch in enumerate(track(batches, "reconstruct", total=steps), start=1):
        loss = _loss(simulation, batch)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()
        if step % max(1, steps // _CHECKS) and step != steps:
            continue
        now = held_back.mean_cosine(everything)
        log.info("reconstruct: step %d, held-back mean cosine %.6f (was %.6f)", step, now, before)
        if now > best:
            best = now
            for group in simulation.groups:
                group.store()
    simulation.reload()
    return before, best


def _rate(step: int, steps: int) -> float:
    return min(1.0, (step + 1) / _WARMUP) * 0.5 * (1 + math.cos(math.pi * step / steps))


def _loss(simulation: Simulation, batch: TokenBatch) -> torch.Tensor:
    with torch.no_grad():
        wanted, hidden_wanted = simulation.residuals(batch)
    got, hidden = simulation.residuals(batch, simulation.gemms)
    loss = (1 - torch.cosine_similarity(got, wanted)).mean()
    errors = [
        (ours - theirs).square().mean() / (theirs - theirs.mean()).square().mean()
        for ours, theirs in zip(hidden, hidden_wanted, strict=True)
    ]
    return loss + torch.stack(errors).mean() if errors else loss


def crops(rows: Sequence[TokenRow], tokenizer: Tokenizer, count: int) -> Iterator[TokenBatch]:
    """Yield batches of random spans of the rows, all of one batch equally long: no padding.

    Spans give more text than there is, so that few rows are not learnt by heart.
    """
    random = np.random.default_rng(0)
    lengths = sorted(len(row.ids) for row in rows)
    for _ in range(count):
        length = int(random.choice(lengths))
        long_enough = [row for row in rows if len(row.ids) >= length]
        size = min(len(long_enough), max(4, _TOKENS // length))
        picked = random.choice(len(long_enough), size, replace=False)
        yield tokenizer.pad([cut_span(long_enough[i], length, random) for i in picked])
