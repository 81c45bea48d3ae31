"""Refuse checkpoints that lack weights: what is not there is drawn at random, anew at each load."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch

from pipeline.engines.torch import run_modules
from pipeline.errors import ResolveError
from pipeline.source.probes import MIN_COSINE, SHORT, own_row
from pipeline.text.tokens import TokenBatch
from pipeline.vectors import FloatArray, row_cosines


def load_watched(load: Callable[[], Any]) -> tuple[Any, bool]:
    """Return the model that ``load`` returns, and whether loading it drew random numbers.

    It does where a weight is missing, and for modules that are made before theirs are read.
    """
    before = torch.get_rng_state()
    model = load()
    return model, not torch.equal(before, torch.get_rng_state())


def refuse_drawn(model: Any, again: Any, location: str) -> None:
    """Hold a model against the same, loaded once more.

    Raises:
        ResolveError: they give different vectors; names the weights that differ.
    """
    others = dict(again.named_parameters())
    drawn = {
        name: others[name].data
        for name, parameter in model.named_parameters()
        if not torch.equal(parameter, others[name])
    }
    if drawn and _matter(model, drawn, location):
        named = ", ".join([*drawn][:3]) + (", …" if len(drawn) > 3 else "")
        raise ResolveError(
            f"{location}: no weights for {named} ({len(drawn)} in all): each load draws others, "
            "and gives other vectors; point model.directory at a checkpoint that was saved whole"
        )


def _matter(model: Any, drawn: Mapping[str, torch.Tensor], location: str) -> bool:
    """Whether a vector changes with these weights; a BERT's pooler, say, is never used."""
    ids = np.array([own_row(model, SHORT["plain"], "", location).ids], np.int64)
    batch = TokenBatch(
        input_ids=ids, attention_mask=np.ones_like(ids), token_type_ids=np.zeros_like(ids)
    )
    seen = run_modules(model, batch, "cpu")
    own = {name: model.get_parameter(name).data for name in drawn}
    try:
        other = _run_with(model, drawn, batch)
    finally:
        for name, data in own.items():
            model.get_parameter(name).data = data
    return not float(row_cosines(seen, other)[0]) >= MIN_COSINE


def _run_with(model: Any, weights: Mapping[str, torch.Tensor], batch: TokenBatch) -> FloatArray:
    for name, data in weights.items():
        model.get_parameter(name).data = data
    return run_modules(model, batch, "cpu")
